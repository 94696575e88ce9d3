//! Which devices a container may use: the lines of version 1, the program of
//! version 2. The last rule that speaks about a device decides; a device that
//! no rule speaks about is allowed, so lists start with a rule that denies all.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::sys::bpf::Instruction;

/// Read, write, make; other letters mean nothing, as with the runtimes before us.
fn access(rule: &LinuxDeviceCgroup) -> String {
    match rule.access().as_deref().filter(|access| !access.is_empty()) {
        Some(access) => access.chars().filter(|letter| "rwm".contains(*letter)).collect(),
        None => "rwm".into(),
    }
}

/// `c`, `b` or `a`.
fn kind(rule: &LinuxDeviceCgroup) -> &'static str {
    match rule.typ() {
        Some(LinuxDeviceType::B) => "b",
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => "c",
        Some(LinuxDeviceType::A | LinuxDeviceType::P) | None => "a",
    }
}

/// A number; `None` is every one.
fn exact(number: Option<i64>) -> Option<i64> {
    number.filter(|number| *number >= 0)
}

/// A rule as `devices.allow` and `devices.deny` take it; `None` when it is about
/// no access at all.
pub(super) fn line(rule: &LinuxDeviceCgroup) -> Option<String> {
    let number = |number| exact(number).map_or_else(|| "*".into(), |number| number.to_string());
    let access = access(rule);
    match kind(rule) {
        // Numbers and access of `a` are ignored by the kernel.
        "a" => Some("a".into()),
        _ if access.is_empty() => None,
        kind => Some(format!(
            "{kind} {}:{} {access}",
            number(rule.major()),
            number(rule.minor()),
        )),
    }
}

/// A rule as numbers of `linux/bpf.h`: type, access.
fn bits(rule: &LinuxDeviceCgroup) -> (Option<i32>, i32) {
    let kind = match kind(rule) {
        "b" => Some(1),
        "c" => Some(2),
        _ => None,
    };
    let access = access(rule).chars().fold(0, |all, letter| {
        all | match letter {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            _ => 0,
        }
    });
    (kind, if kind.is_none() { 7 } else { access })
}

const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// The program of a version 2 cgroup: it looks at the rules from the last to
/// the first and ends with 1 (allowed) or 0.
pub(super) fn program(rules: &[LinuxDeviceCgroup]) -> Vec<Instruction> {
    const LOAD_WORD: u8 = 0x61;
    const AND: u8 = 0x57;
    const SHIFT_RIGHT: u8 = 0x77;
    const MOVE: u8 = 0xb7;
    const MOVE_REGISTER: u8 = 0xbf;
    const JUMP_UNLESS: u8 = 0x55;
    const JUMP_IF: u8 = 0x15;
    const EXIT: u8 = 0x95;
    let op = |code, registers, offset, immediate| Instruction {
        code,
        registers,
        offset,
        immediate,
    };
    // The context (register 1): type and access in one word, major, minor.
    let mut code = vec![
        op(LOAD_WORD, 0x10 | TYPE, 0, 0),
        op(AND, TYPE, 0, 0xffff),
        op(LOAD_WORD, 0x10 | ACCESS, 0, 0),
        op(SHIFT_RIGHT, ACCESS, 0, 16),
        op(LOAD_WORD, 0x10 | MAJOR, 4, 0),
        op(LOAD_WORD, 0x10 | MINOR, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let (kind, access) = bits(rule);
        let mut tests = Vec::new();
        if let Some(kind) = kind {
            tests.push(op(JUMP_UNLESS, TYPE, 0, kind));
        }
        if access != 7 {
            tests.push(op(MOVE_REGISTER, (ACCESS << 4) | SCRATCH, 0, 0));
            if rule.allow() {
                // Applies when nothing beyond its access is asked for.
                tests.push(op(AND, SCRATCH, 0, !access & 7));
                tests.push(op(JUMP_UNLESS, SCRATCH, 0, 0));
            } else {
                // Applies when anything of its access is asked for.
                tests.push(op(AND, SCRATCH, 0, access));
                tests.push(op(JUMP_IF, SCRATCH, 0, 0));
            }
        }
        // `a` stands for every device, whatever its numbers say.
        if kind.is_some() {
            for (register, number) in [(MAJOR, rule.major()), (MINOR, rule.minor())] {
                if let Some(number) = exact(number) {
                    tests.push(op(
                        JUMP_UNLESS,
                        register,
                        0,
                        i32::try_from(number).unwrap_or(i32::MAX),
                    ));
                }
            }
        }
        let length = tests.len();
        for (at, mut test) in tests.into_iter().enumerate() {
            if matches!(test.code, JUMP_UNLESS | JUMP_IF) {
                // Over the rest of the tests and the two of the verdict.
                test.offset = i16::try_from(length - at - 1 + 2).unwrap_or(i16::MAX);
            }
            code.push(test);
        }
        code.push(op(MOVE, 0, 0, i32::from(rule.allow())));
        code.push(op(EXIT, 0, 0, 0));
        if length == 0 {
            // It decides about everything: what would follow is unreachable,
            // which the kernel refuses.
            return code;
        }
    }
    code.push(op(MOVE, 0, 0, 1));
    code.push(op(EXIT, 0, 0, 0));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Vec<LinuxDeviceCgroup> {
        serde_json::from_value(serde_json::json!([
            {"allow": true, "type": "b", "access": "rwm"},
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"},
            {"allow": true, "type": "c", "access": "m"},
            {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "w"},
        ]))
        .unwrap()
    }

    /// Runs the program as the kernel would.
    fn allowed(code: &[Instruction], kind: i64, access: i64, major: i64, minor: i64) -> bool {
        let mut registers = [0i64; 11];
        let mut at = 0;
        loop {
            let instruction = code[at];
            at += 1;
            let to = usize::from(instruction.registers & 15);
            let from = usize::from(instruction.registers >> 4);
            let value = i64::from(instruction.immediate);
            let jump = |holds: bool| if holds { instruction.offset as usize } else { 0 };
            match instruction.code {
                0x61 => {
                    registers[to] = match instruction.offset {
                        0 => kind | access << 16,
                        4 => major,
                        _ => minor,
                    }
                }
                0x57 => registers[to] &= value,
                0x77 => registers[to] >>= value,
                0xb7 => registers[to] = value,
                0xbf => registers[to] = registers[from],
                0x55 => at += jump(registers[to] != value),
                0x15 => at += jump(registers[to] == value),
                0x95 => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_last_rule_that_speaks_about_a_device_decides() {
        let code = program(&rules());
        for (kind, access, major, minor, expected) in [
            (2, 2, 1, 3, true),   // read /dev/null
            (2, 6, 1, 3, true),   // read and write it
            (2, 7, 1, 3, false),  // all three at once: no single rule allows it
            (2, 1, 200, 7, true), // make any character device
            (2, 2, 1, 4, false),  // read another
            (1, 2, 8, 0, false),  // a disk: denied after the first rule
            (1, 1, 8, 0, false),
            (2, 4, 10, 229, false),
        ] {
            assert_eq!(
                allowed(&code, kind, access, major, minor),
                expected,
                "{kind} {access} {major}:{minor}"
            );
        }
    }

    #[test]
    fn lines_are_as_the_kernel_reads_them() {
        let lines: Vec<String> = rules().iter().filter_map(line).collect();
        assert_eq!(lines, ["b *:* rwm", "a", "c 1:3 rw", "c *:* m", "c 10:229 w"]);
        let odd = |access: &str| {
            let rule = serde_json::json!({"allow": false, "type": "c", "major": 1, "access": access});
            line(&serde_json::from_value(rule).unwrap())
        };
        assert_eq!(odd("rwa").as_deref(), Some("c 1:* rw"));
        assert_eq!(odd("x"), None);
    }
}
