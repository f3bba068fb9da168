//! System call filters from files: the JSON of the OCI runtime specification, and Docker's form of it with its conditions.
//!
//! A profile has a default action and rules that name calls, an action, and conditions on arguments. seccompiler's filters know two actions each,
//! so a profile becomes a stack of them: one that lets through what any rule matches and gives the default to all else, and one an action
//! that gives it to what its rules match. Of a stack's answers the kernel takes the strictest, which is what the rule says.
//! Names that this kernel's table does not have are skipped, as libseccomp does: profiles name calls of all architectures.
//! Facts: <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp>.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};
use serde::Deserialize;

use super::identity::{self, CapabilitySet};

/// What a call gets when a rule or the default says `SCMP_ACT_ERRNO` and no number.
const EPERM: u32 = 1;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// An older form: one name.
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Conditions>,
    #[serde(default)]
    excludes: Option<Conditions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// When a rule counts, in Docker's form.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conditions {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Programs to load, in this order. What is wrong with a profile is said in words.
pub(crate) fn compile(json: &str, capabilities: CapabilitySet) -> Result<Vec<BpfProgram>, String> {
    let profile: Profile = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let (mut matched, mut by_action): (Rules, Vec<(SeccompAction, Rules)>) = (Rules::new(), Vec::new());
    for rule in profile.syscalls.iter().filter(|rule| rule.counts(capabilities)) {
        let action = action(&rule.action, rule.errno_ret)?;
        if action == default {
            continue;
        }
        let position = by_action.iter().position(|(known, _)| *known == action).unwrap_or_else(|| {
            by_action.push((action.clone(), Rules::new()));
            by_action.len() - 1
        });
        for number in rule.names.iter().chain(&rule.name).filter_map(|name| number(name)) {
            add(&mut matched, number, rule)?;
            add(&mut by_action[position].1, number, rule)?;
        }
    }
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(|e: seccompiler::BackendError| e.to_string())?;
    let program = |rules: Rules, rest: SeccompAction, action: SeccompAction| {
        let filter = SeccompFilter::new(rules, rest, action, arch).map_err(|e| e.to_string())?;
        BpfProgram::try_from(filter).map_err(|e| e.to_string())
    };
    let mut programs = Vec::new();
    if default != SeccompAction::Allow {
        programs.push(program(matched, default, SeccompAction::Allow)?);
    }
    for (action, rules) in by_action.into_iter().filter(|(action, _)| *action != SeccompAction::Allow) {
        programs.push(program(rules, SeccompAction::Allow, action)?);
    }
    Ok(programs)
}

fn number(name: &str) -> Option<i64> {
    name.parse::<syscalls::Sysno>().ok().map(|call| i64::from(call.id()))
}

/// An unconditional rule swallows all conditions on the same call.
fn add(rules: &mut Rules, number: i64, rule: &Rule) -> Result<(), String> {
    let fresh = rule.conditions()?;
    let known = rules.get(&number);
    let unconditional = fresh.is_empty() || known.is_some_and(Vec::is_empty);
    let list = rules.entry(number).or_default();
    if unconditional {
        list.clear()
    } else {
        list.extend(fresh)
    }
    Ok(())
}

fn action(name: &str, errno: Option<u32>) -> Result<SeccompAction, String> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(errno.unwrap_or(EPERM)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        "SCMP_ACT_LOG" => SeccompAction::Log,
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        "SCMP_ACT_TRACE" => SeccompAction::Trace(errno.unwrap_or(EPERM)),
        other => return Err(format!("action {other:?} is not supported")),
    })
}

impl Rule {
    fn counts(&self, capabilities: CapabilitySet) -> bool {
        let has = |name: &String| identity::capability_bit(name.trim_start_matches("CAP_")).is_some_and(|bit| capabilities & bit != 0);
        let here = |arch: &String| arch == architecture();
        let none = Conditions::default();
        let (includes, excludes) = (self.includes.as_ref().unwrap_or(&none), self.excludes.as_ref().unwrap_or(&none));
        includes.caps.iter().all(has)
            && (includes.arches.is_empty() || includes.arches.iter().any(here))
            && includes.min_kernel.as_deref().is_none_or(kernel_is_at_least)
            && !excludes.caps.iter().any(has)
            && !excludes.arches.iter().any(here)
            && !excludes.min_kernel.as_deref().is_some_and(kernel_is_at_least)
    }

    /// All arguments must match; of several conditions on one argument any, as runc reads it.
    fn conditions(&self) -> Result<Vec<SeccompRule>, String> {
        let args = self.args.as_deref().unwrap_or_default();
        let mut indices: Vec<u8> = args.iter().map(|argument| argument.index).collect();
        indices.sort_unstable();
        indices.dedup();
        let conditions = args.iter().map(Argument::condition).collect::<Result<Vec<_>, _>>()?;
        let rule = |conditions: Vec<SeccompCondition>| SeccompRule::new(conditions).map_err(|e| e.to_string());
        match (conditions.is_empty(), indices.len() == args.len()) {
            (true, _) => Ok(Vec::new()),
            (false, true) => Ok(vec![rule(conditions)?]),
            (false, false) => conditions.into_iter().map(|condition| rule(vec![condition])).collect(),
        }
    }
}

impl Argument {
    fn condition(&self) -> Result<SeccompCondition, String> {
        let (op, value) = match self.op.as_str() {
            "SCMP_CMP_NE" => (SeccompCmpOp::Ne, self.value),
            "SCMP_CMP_LT" => (SeccompCmpOp::Lt, self.value),
            "SCMP_CMP_LE" => (SeccompCmpOp::Le, self.value),
            "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, self.value),
            "SCMP_CMP_GE" => (SeccompCmpOp::Ge, self.value),
            "SCMP_CMP_GT" => (SeccompCmpOp::Gt, self.value),
            "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(self.value), self.value_two),
            other => return Err(format!("operator {other:?} is unknown")),
        };
        SeccompCondition::new(self.index, SeccompCmpArgLen::Qword, op, value).map_err(|e| e.to_string())
    }
}

/// By Go's names, which Docker's conditions use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kernel_is_at_least(wanted: &str) -> bool {
    let numbers = |text: &str| {
        let mut parts = text.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    let running = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
    numbers(&running) >= numbers(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rules: &str, expected: Result<usize, &str>) {
        let json = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{rules}]}}"#);
        match (compile(&json, 0), expected) {
            (Ok(programs), Ok(count)) => assert_eq!(programs.len(), count, "{rules}"),
            (Err(message), Err(words)) => assert!(message.contains(words), "{message}"),
            (found, _) => panic!("{rules}: {found:?}"),
        }
    }

    #[test]
    fn a_profile_becomes_a_program_an_action() {
        check("", Ok(1));
        check(r#"{"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"}"#, Ok(1));
        check(r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW"}, {"name": "clone3", "action": "SCMP_ACT_ERRNO", "errnoRet": 38}"#, Ok(2));
        check(r#"{"names": ["read"], "action": "SCMP_ACT_ERRNO"}"#, Ok(1));
        check(r#"{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}"#, Err("not supported"));
        check(r#"{"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 9, "value": 1, "op": "SCMP_CMP_EQ"}]}"#, Err(""));
        check(
            r#"{"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_ODD"}]}"#,
            Err("unknown"),
        );
        check(r#"{"names": ["read"]}"#, Err("action"));
    }

    #[test]
    fn dockers_conditions_choose_rules() {
        let rule =
            |text: &str| serde_json::from_str::<Rule>(text).expect("a rule").counts(identity::capability_bit("SYS_ADMIN").expect("known"));
        assert!(rule(r#"{"action": "x", "includes": {"caps": ["CAP_SYS_ADMIN"]}, "excludes": {}}"#));
        assert!(!rule(r#"{"action": "x", "includes": {"caps": ["CAP_SYS_BOOT"]}}"#));
        assert!(!rule(r#"{"action": "x", "excludes": {"caps": ["CAP_SYS_ADMIN"]}}"#));
        assert!(rule(r#"{"action": "x", "includes": {"minKernel": "4.8"}}"#));
        assert!(!rule(r#"{"action": "x", "includes": {"minKernel": "99.0"}}"#));
        assert!(!rule(r#"{"action": "x", "includes": {"arches": ["pdp11"]}}"#));
    }
}
