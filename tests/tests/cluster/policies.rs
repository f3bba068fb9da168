//! Network policies: the matrix of who may reach whom, worked out from the policies and probed for every pair of pods and every port.

use crate::{Outcome, Test, setup::Setup};
use pintle_tests::{
    eventually,
    kubectl::{is_ready, items},
};
use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

pub const TESTS: &[Test] = &[("policies_the_matrix_of_who_reaches_whom_is_what_they_say_live", matrix)];

const MINUTE: Duration = Duration::from_secs(60);
const PORTS: [u16; 2] = [8080, 9090];
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

/// Who is allowed, and to which port; nothing said is everything.
#[derive(Clone, Copy)]
struct Peer {
    /// `None`: the policy's own; `*`: any.
    namespace: Option<&'static str>,
    color: Option<&'static str>,
    port: Option<u16>,
}

const RED: Peer = Peer { namespace: None, color: Some("red"), port: None };
const TEAM_B_8080: Peer = Peer { namespace: Some("pol-b"), color: None, port: Some(8080) };
const ANY_RED_9090: Peer = Peer { namespace: Some("*"), color: Some("red"), port: Some(9090) };

fn steps() -> Vec<Vec<Policy>> {
    let closed = Policy { namespace: "pol-a", color: None, ingress: Some(&[]), egress: None };
    vec![
        vec![],
        vec![closed],
        vec![closed, Policy { color: Some("blue"), ingress: Some(&[RED, TEAM_B_8080]), ..closed }],
        vec![Policy { namespace: "pol-b", color: Some("red"), ingress: None, egress: Some(&[ANY_RED_9090]) }],
        vec![
            Policy { namespace: "pol-b", color: None, ingress: Some(&[TEAM_B_8080]), egress: Some(&[RED, ANY_RED_9090]) },
            Policy { color: Some("red"), ingress: Some(&[ANY_RED_9090]), ..closed },
        ],
        vec![],
    ]
}

impl Peer {
    fn is(&self, of: &Policy, pod: (&str, &str, &str), port: u16) -> bool {
        let namespace = self.namespace.unwrap_or(of.namespace);
        (namespace == "*" || namespace == pod.0) && self.color.is_none_or(|color| color == pod.1) && self.port.is_none_or(|p| p == port)
    }
}

/// The rule of the documentation, in the fewest words.
fn allowed(policies: &[Policy], from: (&str, &str, &str), to: (&str, &str, &str), port: u16) -> bool {
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
            if let Some(port) = peer.port {
                let _ = write!(text, "    ports: [{{port: {port}}}]\n");
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

/// Every pair that connects, as `from > to : port`.
fn probe(setup: &Setup, addresses: &[String]) -> BTreeSet<String> {
    let threads: Vec<_> = PODS
        .into_iter()
        .map(|(namespace, color, _)| {
            let mut script = String::new();
            for (to, address) in PODS.iter().zip(addresses).filter(|(to, _)| (to.0, to.1) != (namespace, color)) {
                for port in PORTS {
                    let line = format!("{namespace}/{color} > {}/{} : {port}", to.0, to.1);
                    let _ = write!(script, "(timeout 2 wget -q -O /dev/null http://{address}:{port}/ 2>/dev/null && echo '{line}') & ");
                }
            }
            script.push_str("wait");
            let kubectl = setup.kubectl.clone();
            std::thread::spawn(move || kubectl.run(&["exec", "-n", namespace, color, "--", "sh", "-c", &script]).unwrap_or_default())
        })
        .collect();
    let printed = threads.into_iter().filter_map(|thread| thread.join().ok());
    printed.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn expected(policies: &[Policy]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for from in PODS {
        for to in PODS.into_iter().filter(|to| *to != from) {
            for port in PORTS.into_iter().filter(|port| allowed(policies, from, to, *port)) {
                all.insert(format!("{}/{} > {}/{} : {port}", from.0, from.1, to.0, to.1));
            }
        }
    }
    all
}

fn matrix(setup: &Setup) -> Outcome {
    start(setup)?;
    let mut addresses = Vec::new();
    for (namespace, color, _) in PODS {
        let pod = setup.kubectl.get(&["pod", "-n", namespace, color])?;
        addresses.push(pod["status"]["podIP"].as_str().ok_or("no address")?.to_owned());
    }
    for (number, policies) in steps().iter().enumerate() {
        let text: String = policies.iter().enumerate().map(|(n, policy)| manifest(n, policy)).collect();
        setup.kubectl.run(&["delete", "networkpolicies", "--all", "-n", "pol-a"])?;
        setup.kubectl.run(&["delete", "networkpolicies", "--all", "-n", "pol-b"])?;
        if !text.is_empty() {
            setup.kubectl.apply(&text)?;
        }
        let wanted = expected(policies);
        eventually("every pair is as the policies say", MINUTE, || {
            let seen = probe(setup, &addresses);
            let (more, less): (Vec<_>, Vec<_>) = (seen.difference(&wanted).collect(), wanted.difference(&seen).collect());
            if more.is_empty() && less.is_empty() {
                Ok(())
            } else {
                Err(format!("step {number}: wrongly open {more:?}, wrongly closed {less:?}"))
            }
        })?;
        println!("step {number}: {} of {} pairs are open", wanted.len(), PODS.len() * (PODS.len() - 1) * PORTS.len());
    }
    setup.kubectl.run(&["delete", "namespace", "pol-a", "pol-b", "--timeout=60s"])?;
    Ok(())
}
