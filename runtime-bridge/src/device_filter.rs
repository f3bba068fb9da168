//! Device rules of cgroup v2: a small BPF program that the kernel asks at every open and mknod.
//!
//! Invariant: what no rule allows is refused; a rule allows only what it names.

use std::fs::OpenOptions;
use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

use crate::cgroup::DeviceRule;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// One eBPF instruction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: dst | (src << 4), offset, immediate }
}

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE_64: u8 = 0xb7;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_IF_NOT: u8 = 0x55;
const JUMP_IF_NOT_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// Loads the rules' program and attaches it to the group at `directory`.
pub(crate) fn attach(directory: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    let program = compile(rules);
    let group = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(directory)?;
    let loaded = load(&program)?;
    #[repr(C)]
    struct Attach {
        target_fd: u32,
        program_fd: u32,
        kind: u32,
        flags: u32,
    }
    let attach = Attach {
        target_fd: group.as_raw_fd() as u32,
        program_fd: loaded.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: attach describes itself with its size and outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        rest: [u64; 12],
    }
    // SAFETY: Load is plain old data for which all zeroes is a valid value.
    let mut load: Load = unsafe { zeroed() };
    load.kind = BPF_PROG_TYPE_CGROUP_DEVICE;
    load.count = (size_of_val(program) / size_of::<Instruction>()) as u32;
    load.instructions = program.as_ptr() as u64;
    load.license = c"Apache-2.0".as_ptr() as u64;
    // SAFETY: load and what it points to outlive the call; its size is passed.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// r2 = type, r3 = access, r4 = major, r5 = minor; then a block a rule, which ends in "allow" or falls to the next.
fn compile(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xFFFF),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let mut block = Vec::new();
        match rule.kind {
            'b' => block.push(instruction(JUMP_IF_NOT, 2, 0, 0, 1)),
            'c' => block.push(instruction(JUMP_IF_NOT, 2, 0, 0, 2)),
            _ => {}
        }
        let allowed = access_bits(&rule.access);
        if allowed != 7 {
            block.push(instruction(MOVE_REGISTER, 1, 3, 0, 0));
            block.push(instruction(AND, 1, 0, 0, allowed));
            block.push(instruction(JUMP_IF_NOT_REGISTER, 1, 3, 0, 0));
        }
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                block.push(instruction(JUMP_IF_NOT, register, 0, 0, number as i32));
            }
        }
        block.push(instruction(MOVE_64, 0, 0, 0, 1));
        block.push(instruction(EXIT, 0, 0, 0, 0));
        let length = block.len();
        for (index, step) in block.iter_mut().enumerate() {
            if matches!(step.code, JUMP_IF_NOT | JUMP_IF_NOT_REGISTER) {
                step.offset = (length - index - 1) as i16;
            }
        }
        program.extend(block);
    }
    program.push(instruction(MOVE_64, 0, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

/// BPF_DEVCG_ACC_MKNOD = 1, READ = 2, WRITE = 4.
fn access_bits(access: &str) -> i32 {
    access.chars().fold(0, |bits, c| {
        bits | match c {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            _ => 0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The v2 tree, alone or beside v1.
    fn unified() -> Option<&'static Path> {
        ["/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/unified/cgroup.procs"]
            .iter()
            .find_map(|file| Path::new(file).exists().then(|| Path::new(file).parent())?)
    }

    #[test]
    fn the_kernel_refuses_what_no_rule_allows() {
        let (true, Some(root)) = (nix::unistd::geteuid().is_root(), unified()) else {
            println!("skipped: needs root and cgroup v2");
            return;
        };
        let group = root.join(format!("pintle-device-test-{}", std::process::id()));
        std::fs::create_dir(&group).expect("group");
        let rule = |minor, access: &str| DeviceRule { kind: 'c', major: Some(1), minor: Some(minor), access: access.to_owned() };
        // zero: all; full: reading only; random: not at all.
        let attached = attach(&group, &[rule(5, "rwm"), rule(7, "r")]);
        let script = format!(
            "echo $$ > {}/cgroup.procs; head -c1 /dev/zero >/dev/zero && echo zero; head -c1 /dev/full >/dev/zero && echo full; \
             (echo x >/dev/full) 2>&1; head -c1 /dev/random >/dev/zero && echo random; true",
            group.display()
        );
        let output = std::process::Command::new("sh").arg("-c").arg(script).output().expect("sh");
        // The shell is gone; its group may need a moment to know.
        while std::fs::remove_dir(&group).is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY)) {
            std::thread::yield_now();
        }
        attached.expect("attach");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("zero\n") && text.contains("full\n") && !text.contains("random\n"), "{text}");
        assert!(text.contains("Operation not permitted"), "{text}");
    }

    #[test]
    fn a_program_ends_in_refusal_and_every_jump_lands_behind_its_block() {
        let rule = |access: &str| DeviceRule { kind: 'c', major: Some(1), minor: Some(3), access: access.to_owned() };
        let program = compile(&[rule("rwm"), rule("m")]);
        assert_eq!(program[program.len() - 2..], [instruction(MOVE_64, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
        for (index, step) in program.iter().enumerate() {
            if step.offset != 0 && step.code != LOAD_WORD {
                let target = index + 1 + usize::try_from(step.offset).expect("forward");
                assert_eq!(program[target - 1].code, EXIT, "jump at {index}");
            }
        }
    }
}
