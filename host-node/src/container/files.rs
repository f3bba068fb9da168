//! The files that the node makes for every pod: /etc/hosts and /etc/resolv.conf, and the pod's host name.
//!
//! Pure: text in, text out.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use crate::link::ClusterConfig;
use crate::pod::record::{host_network, name, namespace};

/// Most characters of a host name.
const HOSTNAME_MAX: usize = 63;

/// What `hostname` says inside the pod.
pub fn hostname(pod: &Pod, node: &str) -> String {
    if host_network(pod) {
        return node.to_owned();
    }
    let wanted = pod.spec.as_ref().and_then(|s| s.hostname.as_deref()).filter(|h| !h.is_empty()).unwrap_or(name(pod));
    let cut: String = wanted.chars().take(HOSTNAME_MAX).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The pod's name under its subdomain, when it has one.
fn full_name(pod: &Pod, cluster: &ClusterConfig, hostname: &str) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|s| !s.is_empty())?;
    Some(format!("{hostname}.{subdomain}.{}.svc.{}", namespace(pod), cluster.cluster_domain))
}

/// /etc/hosts; `host_file` is the node's own, for pods on the host's network.
pub fn hosts(pod: &Pod, node: &str, cluster: &ClusterConfig, addresses: &[IpAddr], host_file: &str) -> String {
    let mut text = if host_network(pod) {
        format!("# Kubernetes-managed hosts file (host network).\n{host_file}")
    } else {
        let mut text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
            fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
            .to_owned();
        let hostname = hostname(pod, node);
        for address in addresses {
            match full_name(pod, cluster, &hostname) {
                Some(full) => text.push_str(&format!("{address}\t{full}\t{hostname}\n")),
                None => text.push_str(&format!("{address}\t{hostname}\n")),
            }
        }
        text
    };
    let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.as_deref()).unwrap_or(&[]);
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t")));
        }
    }
    text
}

/// /etc/resolv.conf by dnsPolicy and dnsConfig; `host_file` is the node's own.
pub fn resolv_conf(pod: &Pod, cluster: &ClusterConfig, host_file: &str) -> String {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let host = Resolver::parse(host_file);
    let in_cluster =
        !cluster.cluster_dns.is_empty() && (policy == "ClusterFirstWithHostNet" || policy == "ClusterFirst" && !host_network(pod));
    let mut resolver = match policy {
        "None" => Resolver::default(),
        _ if in_cluster => {
            let domain = &cluster.cluster_domain;
            let mut search = vec![format!("{}.svc.{domain}", namespace(pod)), format!("svc.{domain}"), domain.clone()];
            search.extend(host.search);
            Resolver { servers: vec![cluster.cluster_dns.clone()], search, options: vec!["ndots:5".into()] }
        }
        _ => host,
    };
    if let Some(config) = spec.and_then(|s| s.dns_config.as_ref()) {
        resolver.servers.extend(config.nameservers.iter().flatten().cloned());
        resolver.search.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            resolver.options.retain(|known| known.split(':').next() != Some(&name));
            resolver.options.push(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")));
        }
    }
    resolver.write()
}

#[derive(Default)]
struct Resolver {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let key = words.next();
            let rest = words.map(str::to_owned);
            match key {
                Some("nameserver") => resolver.servers.extend(rest.take(1)),
                Some("search") => resolver.search = rest.collect(),
                Some("options") => resolver.options = rest.collect(),
                _ => {}
            }
        }
        resolver
    }

    fn write(&self) -> String {
        let unique = |list: &[String]| {
            let mut seen = Vec::new();
            list.iter().for_each(|item| {
                if !seen.contains(item) {
                    seen.push(item.clone())
                }
            });
            seen
        };
        let mut text = String::new();
        if !self.search.is_empty() {
            text.push_str(&format!("search {}\n", unique(&self.search).join(" ")));
        }
        for server in unique(&self.servers).iter().take(3) {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "web-0", "namespace": "ns" }, "spec": spec })).expect("a pod")
    }

    fn cluster(dns: &str) -> ClusterConfig {
        ClusterConfig { cluster_domain: "cluster.local".into(), cluster_dns: dns.into(), ..ClusterConfig::default() }
    }

    #[test]
    fn resolvers_follow_policy_and_config() {
        let host = "nameserver 9.9.9.9\nsearch example.org\noptions timeout:1\n";
        let check = |spec: serde_json::Value, dns: &str, expected: &str| {
            assert_eq!(resolv_conf(&pod(spec.clone()), &cluster(dns), host), expected, "{spec}");
        };
        let cluster_first =
            "search ns.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.0.0.10\noptions ndots:5\n";
        check(json!({ "containers": [] }), "10.0.0.10", cluster_first);
        check(json!({ "containers": [] }), "", "search example.org\nnameserver 9.9.9.9\noptions timeout:1\n");
        check(json!({ "containers": [], "hostNetwork": true }), "10.0.0.10", "search example.org\nnameserver 9.9.9.9\noptions timeout:1\n");
        check(json!({ "containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet" }), "10.0.0.10", cluster_first);
        check(
            json!({ "containers": [], "dnsPolicy": "None", "dnsConfig": {
                "nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{ "name": "ndots", "value": "2" }, { "name": "edns0" }] } }),
            "10.0.0.10",
            "search a.b\nnameserver 1.1.1.1\noptions ndots:2 edns0\n",
        );
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let spec =
            json!({ "containers": [], "hostname": "h", "subdomain": "s", "hostAliases": [{ "ip": "1.2.3.4", "hostnames": ["x", "y"] }] });
        let text = hosts(&pod(spec), "n1", &cluster(""), &[[10, 0, 0, 5].into()], "");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.contains("10.0.0.5\th.s.ns.svc.cluster.local\th\n"), "{text}");
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\tx\ty\n"), "{text}");
        let text = hosts(&pod(json!({ "containers": [], "hostNetwork": true })), "n1", &cluster(""), &[], "127.0.0.1 me\n");
        assert_eq!(text, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 me\n");
    }
}
