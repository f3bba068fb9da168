//! Network policies: the matrix of who may reach whom, worked out from the policies and probed for every pair of pods, both protocols, every port
//! and each family of addresses that pods have.

use crate::{Outcome, Test, datagrams, ensure, setup::Setup};
use pintle_tests::{
    eventually,
    kubectl::{is_ready, items},
};
use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

pub const TESTS: &[Test] = &[("policies_the_matrix_of_who_reaches_whom_is_what_they_say_live", matrix)];

const MINUTE: Duration = Duration::from_secs(60);
const PORTS: [(&str, u16); 4] = [("TCP", 8080), ("TCP", 9090), ("UDP", 8080), ("UDP", 9090)];
/// Namespace (with a label `team` of the same text), colour (a label) and node.
const PODS: [(&str, &str, &str); 4] =
    [("pol-a", "red", "node-1"), ("pol-a", "blue", "node-2"), ("pol-b", "red", "node-2"), ("pol-b", "blue", "node-3")];

/// A policy: for which pods, and what it allows in each direction that it has.
#[derive(Clone, Copy)]
struct Policy {
    namespace: &'static str,
    color: Option<&'static str>,
    ingress: Option<&'static [Peer]>,
    egress: Option<&'static [Peer]>,
}

/// Who is allowed, and to which port (of TCP if nothing else is said); no port is everything.
#[derive(Clone, Copy)]
struct Peer {
    /// `None`: the policy's own; `*`: any.
    namespace: Option<&'static str>,
    color: Option<&'static str>,
    port: Option<(&'static str, u16)>,
}

const RED: Peer = Peer { namespace: None, color: Some("red"), port: None };
const TEAM_B_8080: Peer = Peer { namespace: Some("pol-b"), color: None, port: Some(("", 8080)) };
const ANY_RED_9090: Peer = Peer { namespace: Some("*"), color: Some("red"), port: Some(("TCP", 9090)) };
const ANY_BLUE_UDP: Peer = Peer { namespace: Some("*"), color: Some("blue"), port: Some(("UDP", 8080)) };

fn steps() -> Vec<Vec<Policy>> {
    let closed = Policy { namespace: "pol-a", color: None, ingress: Some(&[]), egress: None };
    vec![
        vec![],
        vec![closed],
        vec![closed, Policy { color: Some("blue"), ingress: Some(&[RED, TEAM_B_8080]), ..closed }],
        vec![Policy { namespace: "pol-b", color: Some("red"), ingress: None, egress: Some(&[ANY_RED_9090, ANY_BLUE_UDP]) }],
        vec![
            Policy { namespace: "pol-b", color: None, ingress: Some(&[TEAM_B_8080]), egress: Some(&[RED, ANY_RED_9090]) },
            Policy { color: Some("red"), ingress: Some(&[ANY_RED_9090, ANY_BLUE_UDP]), ..closed },
        ],
        vec![],
    ]
}

impl Peer {
    fn is(&self, of: &Policy, pod: (&str, &str, &str), port: (&str, u16)) -> bool {
        let namespace = self.namespace.unwrap_or(of.namespace);
        let of_port = |(protocol, number): (&str, u16)| (if protocol.is_empty() { "TCP" } else { protocol }, number) == port;
        (namespace == "*" || namespace == pod.0) && self.color.is_none_or(|color| color == pod.1) && self.port.is_none_or(of_port)
    }
}

/// The rule of the documentation, in the fewest words.
fn allowed(policies: &[Policy], from: (&str, &str, &str), to: (&str, &str, &str), port: (&str, u16)) -> bool {
    let open = |pod: (&str, &str, &str), other: (&str, &str, &str), side: fn(&Policy) -> Option<&'static [Peer]>| {
        let mut about =
            policies.iter().filter(|p| p.namespace == pod.0 && p.color.is_none_or(|c| c == pod.1) && side(p).is_some()).peekable();
        about.peek().is_none() || about.any(|p| side(p).into_iter().flatten().any(|peer| peer.is(p, other, port)))
    };
    open(from, to, |p| p.egress) && open(to, from, |p| p.ingress)
}

fn manifest(number: usize, policy: &Policy) -> String {
    let labels = |color: Option<&str>| color.map_or("{}".to_owned(), |color| format!("{{matchLabels: {{color: {color}}}}}"));
    let side = |direction: &str, word: &str, peers: Option<&[Peer]>| {
        let Some(peers) = peers else { return String::new() };
        let mut text = format!("  {direction}:\n");
        if peers.is_empty() {
            text = format!("  {direction}: []\n");
        }
        for peer in peers {
            let namespaces = match peer.namespace {
                None => String::new(),
                Some("*") => "namespaceSelector: {}, ".to_owned(),
                Some(name) => format!("namespaceSelector: {{matchLabels: {{team: {name}}}}}, "),
            };
            let _ = write!(text, "  - {word}: [{{{namespaces}podSelector: {}}}]\n", labels(peer.color));
            if let Some((protocol, port)) = peer.port {
                let protocol = if protocol.is_empty() { String::new() } else { format!("protocol: {protocol}, ") };
                let _ = write!(text, "    ports: [{{{protocol}port: {port}}}]\n");
            }
        }
        text
    };
    let types: Vec<&str> = [policy.ingress.map(|_| "Ingress"), policy.egress.map(|_| "Egress")].into_iter().flatten().collect();
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{number}, namespace: {}}}\nspec:\n  podSelector: {}\n  \
         policyTypes: [{}]\n{}{}",
        policy.namespace,
        labels(policy.color),
        types.join(", "),
        side("ingress", "from", policy.ingress),
        side("egress", "to", policy.egress)
    )
}

fn start(setup: &Setup) -> Outcome {
    let mut all = String::new();
    for namespace in ["pol-a", "pol-b"] {
        let _ = write!(all, "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{team: {namespace}}}}}\n");
    }
    setup.kubectl.apply(&all)?;
    all.clear();
    for (namespace, color, node) in PODS {
        let _ = write!(
            all,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {color}, namespace: {namespace}, labels: {{color: {color}}}}}\nspec:\n  \
             nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: main\n    image: registry.pintle.test/web:1\n    \
             command: [sh, -c, \"httpd -p 9090 -h /www; exec httpd -f -p 8080 -h /www\"]\n"
        );
    }
    eventually("the pods are accepted", MINUTE, || setup.kubectl.apply(&all).map_err(|e| e.to_string()))?;
    setup.kubectl.wait_for("the pods are ready", &["pods", "-A", "-l", "color"], MINUTE, |l| {
        let ready = items(l).iter().filter(|p| is_ready(p)).count();
        if ready == PODS.len() { Ok(()) } else { Err(format!("{ready} are")) }
    })?;
    Ok(())
}

/// Every pair that connects, as `from > to : protocol port`.
fn probe(setup: &Setup, pods: &[Pod]) -> Result<BTreeSet<String>, String> {
    let threads: Vec<_> = PODS
        .into_iter()
        .map(|(namespace, color, _)| {
            let mut script = String::new();
            for (to, pod) in PODS.iter().zip(pods).filter(|(to, _)| (to.0, to.1) != (namespace, color)) {
                for (address, (_, port)) in pod.addresses.iter().flat_map(|a| PORTS.iter().filter(|p| p.0 == "TCP").map(move |p| (a, p))) {
                    let line = line((namespace, color), (to.0, to.1), ("TCP", *port), family(address));
                    let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
                    let _ = write!(script, "(timeout 2 wget -q -O /dev/null http://{host}:{port}/ 2>/dev/null && echo '{line}') & ");
                }
            }
            script.push_str("wait");
            let kubectl = setup.kubectl.clone();
            std::thread::spawn(move || kubectl.run(&["exec", "-n", namespace, color, "--", "sh", "-c", &script]).unwrap_or_default())
        })
        .collect();
    let mut datagrams = Vec::new();
    for (from, pod) in PODS.iter().zip(pods) {
        let others = pods.iter().filter(|other| other.uid != pod.uid);
        let ports = || PORTS.iter().filter(|(protocol, _)| *protocol == "UDP").map(|(_, port)| *port);
        let addresses = others.flat_map(|other| &other.addresses);
        let targets = addresses.flat_map(|address| ports().map(|port| (address.clone(), port))).collect();
        datagrams.push((from, datagrams::answering(&pod.uid, targets)?));
    }
    let printed = threads.into_iter().filter_map(|thread| thread.join().ok());
    let mut all: BTreeSet<String> = printed.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    for (from, thread) in datagrams {
        for (address, port) in thread.join().map_err(|_| "a prober panicked")? {
            let to = PODS.iter().zip(pods).find(|(_, pod)| pod.addresses.contains(&address)).map(|(to, _)| to);
            all.extend(to.map(|to| line((from.0, from.1), (to.0, to.1), ("UDP", port), family(&address))));
        }
    }
    Ok(all)
}

/// A pod as it runs.
struct Pod {
    /// One of each family.
    addresses: Vec<String>,
    uid: String,
}

fn family(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

fn line(from: (&str, &str), to: (&str, &str), (protocol, port): (&str, u16), family: &str) -> String {
    format!("{}/{} > {}/{} : {protocol} {port} {family}", from.0, from.1, to.0, to.1)
}

fn expected(policies: &[Policy], families: &[&str]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for from in PODS {
        for to in PODS.into_iter().filter(|to| *to != from) {
            for port in PORTS.into_iter().filter(|port| allowed(policies, from, to, *port)) {
                all.extend(families.iter().map(|family| line((from.0, from.1), (to.0, to.1), port, family)));
            }
        }
    }
    all
}

fn matrix(setup: &Setup) -> Outcome {
    start(setup)?;
    let (mut pods, mut servers) = (Vec::new(), Vec::new());
    for (namespace, color, _) in PODS {
        let pod = setup.kubectl.get(&["pod", "-n", namespace, color])?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned).ok_or("no address or no uid");
        let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
        let addresses = ips.map(|ip| text(&ip["ip"])).collect::<Result<Vec<_>, _>>()?;
        let pod = Pod { addresses, uid: text(&pod["metadata"]["uid"])? };
        for (_, port) in PORTS.iter().filter(|(protocol, _)| *protocol == "UDP") {
            servers.push(datagrams::echo(&pod.uid, *port)?);
        }
        pods.push(pod);
    }
    let families: Vec<&str> = pods[0].addresses.iter().map(|address| family(address)).collect();
    for (number, policies) in steps().iter().enumerate() {
        let text: String = policies.iter().enumerate().map(|(n, policy)| manifest(n, policy)).collect();
        setup.kubectl.run(&["delete", "networkpolicies", "--all", "-n", "pol-a"])?;
        setup.kubectl.run(&["delete", "networkpolicies", "--all", "-n", "pol-b"])?;
        if !text.is_empty() {
            setup.kubectl.apply(&text)?;
        }
        let wanted = expected(policies, &families);
        eventually("every pair is as the policies say", MINUTE, || {
            let seen = probe(setup, &pods)?;
            let (more, less): (Vec<_>, Vec<_>) = (seen.difference(&wanted).collect(), wanted.difference(&seen).collect());
            if more.is_empty() && less.is_empty() {
                Ok(())
            } else {
                Err(format!("step {number}: wrongly open {more:?}, wrongly closed {less:?}"))
            }
        })?;
        println!("step {number}: {} of {} pairs are open", wanted.len(), PODS.len() * (PODS.len() - 1) * PORTS.len() * families.len());
    }
    from_the_first(setup, &pods[2].addresses)?;
    setup.kubectl.run(&["delete", "namespace", "pol-a", "pol-b", "--timeout=60s"])?;
    Ok(())
}

/// What a pod may not send it does not send as its first deed either, on any node.
fn from_the_first(setup: &Setup, addresses: &[String]) -> Outcome {
    let closed = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed, namespace: pol-a}\nspec:\n  \
                  podSelector: {matchLabels: {may: nothing}}\n  policyTypes: [Egress]\n";
    setup.kubectl.apply(closed)?;
    let hosts = addresses.iter().map(|address| if address.contains(':') { format!("[{address}]") } else { address.clone() });
    let ask = |host: String| format!("timeout 1 wget -q -O /dev/null http://{host}:8080/ && echo THROUGH || echo KEPT");
    // What a shell says of a program that ran out of time is no answer.
    let script = format!("exec 2>/dev/null; {}", hosts.map(ask).collect::<Vec<_>>().join("; "));
    let mut all = String::new();
    for (number, may) in [(1, "nothing"), (2, "nothing"), (3, "nothing"), (3, "everything")] {
        let _ = write!(
            all,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {may}-{number}, namespace: pol-a, labels: {{may: {may}}}}}\nspec:\n  nodeName: node-{number}\n  \
             restartPolicy: Never\n  containers:\n  - {{name: main, image: 'registry.pintle.test/web:1', command: [sh, -c, \"{script}\"]}}\n"
        );
    }
    setup.kubectl.apply(&all)?;
    setup.kubectl.wait_for("the pods have tried", &["pods", "-n", "pol-a", "-l", "may"], MINUTE, |l| {
        let over = items(l).iter().filter(|p| p["status"]["phase"] == "Succeeded").count();
        if over == 4 { Ok(()) } else { Err(format!("{over} have")) }
    })?;
    for (name, word) in [("nothing-1", "KEPT"), ("nothing-2", "KEPT"), ("nothing-3", "KEPT"), ("everything-3", "THROUGH")] {
        let said = setup.kubectl.run(&["logs", "-n", "pol-a", name])?;
        ensure!(said.lines().count() == addresses.len() && said.lines().all(|line| line == word), "{name}: {said:?}, not {word}");
    }
    Ok(())
}
