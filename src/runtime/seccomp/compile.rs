//! Rules to a classic BPF program.
//!
//! A filter first looks at the architecture, then finds the system call's
//! number in a balanced tree of comparisons (about eight steps for the default
//! profile; a linear list would take hundreds), then looks at arguments where a
//! rule does. Every path ends in a verdict, so jumps only go forward.

use std::collections::BTreeMap;

use crate::sys::seccomp::Instruction;

/// `SECCOMP_RET_ALLOW`.
pub(super) const ALLOW: u32 = 0x7fff_0000;
/// `SECCOMP_RET_KILL_PROCESS`.
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
/// `SECCOMP_RET_ERRNO`, to be joined with the error number.
pub(super) const ERRNO: u32 = 0x0005_0000;

/// The flag in the numbers of x32 system calls.
const X32_BIT: u32 = 0x4000_0000;

/// An architecture as a filter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Architecture {
    /// x86-64.
    X86_64,
    /// 32-bit x86.
    I386,
    /// x86-64 with 32-bit pointers.
    X32,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM (EABI).
    Arm,
}

impl Architecture {
    /// `AUDIT_ARCH_*`.
    fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// Is the value.
    Equal(u64),
    /// Is not the value.
    NotEqual(u64),
    /// Is below the value.
    Less(u64),
    /// Is the value or below.
    LessOrEqual(u64),
    /// Is above the value.
    Greater(u64),
    /// Is the value or above.
    GreaterOrEqual(u64),
    /// The bits of `mask` are those of `value`.
    Masked {
        /// The bits looked at.
        mask: u64,
        /// What they must be.
        value: u64,
    },
}

/// A test of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// Which, from 0.
    pub(super) argument: u8,
    /// The kernel uses only its lower 32 bits, so only those are compared.
    pub(super) narrow: bool,
    /// How.
    pub(super) comparison: Comparison,
}

/// A verdict when all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// None at all: always.
    pub(super) conditions: Vec<Condition>,
    /// `SECCOMP_RET_*`.
    pub(super) verdict: u32,
}

/// The rules of one architecture.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    /// By system call number; the first rule that holds decides.
    pub(super) calls: BTreeMap<u32, Vec<Rule>>,
    /// Numbers above this one get [`Rules::beyond_verdict`].
    pub(super) beyond: u32,
    /// The verdict on system calls newer than the rules.
    pub(super) beyond_verdict: u32,
    /// The verdict when no rule holds.
    pub(super) otherwise: u32,
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offset of the number in `struct seccomp_data`.
const NUMBER: u32 = 0;
/// Offset of the architecture in `struct seccomp_data`.
const ARCHITECTURE: u32 = 4;

/// Compiles the rules of all architectures; any other one is killed.
pub(super) fn compile(architectures: &BTreeMap<Architecture, Rules>) -> Vec<Instruction> {
    let mut program = vec![load(ARCHITECTURE)];
    let blocks = [
        (Architecture::X86_64, Some(Architecture::X32)),
        (Architecture::I386, None),
        (Architecture::Aarch64, None),
        (Architecture::Arm, None),
    ];
    for (main, variant) in blocks {
        let (main_rules, variant_rules) = (
            architectures.get(&main),
            variant.and_then(|variant| architectures.get(&variant)),
        );
        if main_rules.is_none() && variant_rules.is_none() {
            continue;
        }
        let mut block = vec![load(NUMBER)];
        let numbers = |rules: Option<&Rules>, bit| match rules {
            Some(rules) => search(&leaves(rules, bit)),
            None => vec![verdict(KILL_PROCESS)],
        };
        let plain = numbers(main_rules, 0);
        if variant.is_some() {
            block.push(test(GREATER_OR_EQUAL, X32_BIT, 0, 1));
            block.push(jump(plain.len()));
            block.extend(plain);
            block.extend(numbers(variant_rules, X32_BIT));
        } else {
            block.extend(plain);
        }
        program.push(test(EQUAL, main.audit(), 1, 0));
        program.push(jump(block.len()));
        program.extend(block);
    }
    program.push(verdict(KILL_PROCESS));
    program
}

/// What happens from a number on, up to the next leaf.
struct Leaf {
    from: u32,
    code: Vec<Instruction>,
}

/// The rules as a list of ranges that covers all numbers.
fn leaves(rules: &Rules, bit: u32) -> Vec<Leaf> {
    let mut list: Vec<Leaf> = Vec::new();
    let mut push = |from: u32, code: Vec<Instruction>| {
        if list.last().is_none_or(|last| last.code != code) {
            list.push(Leaf { from, code });
        }
    };
    let mut next = 0;
    push(bit, vec![verdict(rules.otherwise)]);
    for (number, calls) in &rules.calls {
        if *number > next {
            push(next | bit, vec![verdict(rules.otherwise)]);
        }
        push(number | bit, decide(calls, rules.otherwise));
        next = number + 1;
    }
    if rules.beyond >= next {
        push(next | bit, vec![verdict(rules.otherwise)]);
        next = rules.beyond.saturating_add(1);
    }
    push(next | bit, vec![verdict(rules.beyond_verdict)]);
    list
}

/// A balanced tree over the leaves, the number being in the accumulator.
fn search(leaves: &[Leaf]) -> Vec<Instruction> {
    match leaves {
        [] => Vec::new(),
        [leaf] => leaf.code.clone(),
        _ => {
            let (left, right) = leaves.split_at(leaves.len() / 2);
            let pivot = right.first().map_or(0, |leaf| leaf.from);
            let (low, high) = (search(left), search(right));
            let mut code = Vec::with_capacity(low.len() + high.len() + 2);
            match u8::try_from(low.len()) {
                Ok(distance) => code.push(test(GREATER_OR_EQUAL, pivot, distance, 0)),
                Err(_) => {
                    // Tests reach 255 instructions, jumps any distance.
                    code.push(test(GREATER_OR_EQUAL, pivot, 0, 1));
                    code.push(jump(low.len()));
                }
            }
            code.extend(low);
            code.extend(high);
            code
        }
    }
}

/// The rules of one system call: the first that holds, or `otherwise`.
fn decide(rules: &[Rule], otherwise: u32) -> Vec<Instruction> {
    let mut code = Vec::new();
    for rule in rules {
        if rule.conditions.is_empty() {
            code.push(verdict(rule.verdict));
            return code;
        }
        code.extend(check(rule));
    }
    code.push(verdict(otherwise));
    code
}

/// Where a test goes on.
#[derive(Clone, Copy)]
enum Goal {
    /// With the next instruction.
    Next,
    /// With the next condition: this one holds.
    Holds,
    /// With the next rule: this one does not apply.
    Fails,
}

/// One rule: its verdict when all conditions hold, else falls off its end.
fn check(rule: &Rule) -> Vec<Instruction> {
    // Instructions with their goals, and for each the end of its condition.
    let mut steps: Vec<(Instruction, Goal, Goal, usize)> = Vec::new();
    for condition in &rule.conditions {
        let list = compare(*condition);
        let end = steps.len() + list.len();
        steps.extend(
            list.into_iter()
                .map(|(instruction, yes, no)| (instruction, yes, no, end)),
        );
    }
    let fails = steps.len() + 1;
    let mut code: Vec<Instruction> = steps
        .into_iter()
        .enumerate()
        .map(|(at, (mut instruction, yes, no, end))| {
            let distance = |goal| {
                let target = match goal {
                    Goal::Next => at + 1,
                    Goal::Holds => end,
                    Goal::Fails => fails,
                };
                u8::try_from(target - at - 1).unwrap_or(u8::MAX)
            };
            if instruction.code & 0x07 == 0x05 {
                (instruction.jt, instruction.jf) = (distance(yes), distance(no));
            }
            instruction
        })
        .collect();
    code.push(verdict(rule.verdict));
    code
}

/// The tests of one condition, each with where it goes on when it holds and
/// when it does not.
fn compare(condition: Condition) -> Vec<(Instruction, Goal, Goal)> {
    use Goal::{Fails, Holds, Next};
    let low_word = 16 + 8 * u32::from(condition.argument);
    let plain = |instruction| (instruction, Next, Next);
    let on = |code, k, yes, no| (test(code, k, 0, 0), yes, no);
    let mut list = Vec::new();
    let (value, mask) = match condition.comparison {
        Comparison::Masked { mask, value } => (value, mask),
        Comparison::Equal(value)
        | Comparison::NotEqual(value)
        | Comparison::Less(value)
        | Comparison::LessOrEqual(value)
        | Comparison::Greater(value)
        | Comparison::GreaterOrEqual(value) => (value, u64::MAX),
    };
    let (high, low) = halves(value);
    let (mask_high, mask_low) = halves(mask);
    if !condition.narrow {
        list.push(plain(load(low_word + 4)));
        match condition.comparison {
            Comparison::Equal(_) => list.push(on(EQUAL, high, Next, Fails)),
            Comparison::NotEqual(_) => list.push(on(EQUAL, high, Next, Holds)),
            Comparison::Masked { .. } => {
                list.push(plain(instruction(AND, mask_high)));
                list.push(on(EQUAL, high, Next, Fails));
            }
            Comparison::Less(_) | Comparison::LessOrEqual(_) => {
                list.push(on(GREATER, high, Fails, Next));
                list.push(on(EQUAL, high, Next, Holds));
            }
            Comparison::Greater(_) | Comparison::GreaterOrEqual(_) => {
                list.push(on(GREATER, high, Holds, Next));
                list.push(on(EQUAL, high, Next, Fails));
            }
        }
    }
    list.push(plain(load(low_word)));
    match condition.comparison {
        Comparison::Equal(_) => list.push(on(EQUAL, low, Holds, Fails)),
        Comparison::NotEqual(_) => list.push(on(EQUAL, low, Fails, Holds)),
        Comparison::Masked { .. } => {
            list.push(plain(instruction(AND, mask_low)));
            list.push(on(EQUAL, low, Holds, Fails));
        }
        Comparison::Less(_) => list.push(on(GREATER_OR_EQUAL, low, Fails, Holds)),
        Comparison::LessOrEqual(_) => list.push(on(GREATER, low, Fails, Holds)),
        Comparison::Greater(_) => list.push(on(GREATER, low, Holds, Fails)),
        Comparison::GreaterOrEqual(_) => list.push(on(GREATER_OR_EQUAL, low, Holds, Fails)),
    }
    list
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are what is asked for")]
fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}

fn instruction(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

fn load(offset: u32) -> Instruction {
    instruction(LOAD, offset)
}

fn verdict(action: u32) -> Instruction {
    instruction(RETURN, action)
}

fn jump(distance: usize) -> Instruction {
    instruction(JUMP, u32::try_from(distance).unwrap_or(u32::MAX))
}

fn test(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

#[cfg(test)]
pub(super) mod machine {
    //! Runs a program as the kernel would.
    use super::*;

    /// The verdict of a program on one system call.
    pub(in super::super) fn run(
        program: &[Instruction],
        architecture: Architecture,
        number: u32,
        args: [u64; 6],
    ) -> u32 {
        let mut accumulator = 0u32;
        let mut at = 0;
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
            match code {
                LOAD if k == NUMBER => accumulator = number,
                LOAD if k == ARCHITECTURE => accumulator = architecture.audit(),
                LOAD => {
                    let word = (k - 16) / 4;
                    let (high, low) = halves(args[word as usize / 2]);
                    accumulator = if word % 2 == 1 { high } else { low };
                }
                AND => accumulator &= k,
                JUMP => at += k as usize,
                EQUAL => branch(accumulator == k),
                GREATER => branch(accumulator > k),
                GREATER_OR_EQUAL => branch(accumulator >= k),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::machine::run;
    use super::*;
    use proptest::prelude::*;

    fn holds(condition: Condition, args: [u64; 6]) -> bool {
        let mut argument = args[usize::from(condition.argument)];
        let narrow = |value: u64| {
            if condition.narrow {
                value & 0xffff_ffff
            } else {
                value
            }
        };
        argument = narrow(argument);
        match condition.comparison {
            Comparison::Equal(value) => argument == narrow(value),
            Comparison::NotEqual(value) => argument != narrow(value),
            Comparison::Less(value) => argument < narrow(value),
            Comparison::LessOrEqual(value) => argument <= narrow(value),
            Comparison::Greater(value) => argument > narrow(value),
            Comparison::GreaterOrEqual(value) => argument >= narrow(value),
            Comparison::Masked { mask, value } => argument & narrow(mask) == narrow(value),
        }
    }

    fn expected(rules: &Rules, number: u32, args: [u64; 6]) -> u32 {
        for rule in rules.calls.get(&number).into_iter().flatten() {
            if rule.conditions.iter().all(|condition| holds(*condition, args)) {
                return rule.verdict;
            }
        }
        if rules.calls.contains_key(&number) || number <= rules.beyond {
            rules.otherwise
        } else {
            rules.beyond_verdict
        }
    }

    /// Values near each other in both halves, so that comparisons meet.
    fn value() -> impl Strategy<Value = u64> {
        (0u64..3, 0u64..4).prop_map(|(high, low)| high << 32 | low)
    }

    fn condition() -> impl Strategy<Value = Condition> {
        (0u8..6, any::<bool>(), 0..7, value(), value()).prop_map(|(argument, narrow, kind, one, two)| {
            Condition {
                argument,
                narrow,
                comparison: match kind {
                    0 => Comparison::Equal(one),
                    1 => Comparison::NotEqual(one),
                    2 => Comparison::Less(one),
                    3 => Comparison::LessOrEqual(one),
                    4 => Comparison::Greater(one),
                    5 => Comparison::GreaterOrEqual(one),
                    _ => Comparison::Masked {
                        mask: one,
                        value: two,
                    },
                },
            }
        })
    }

    fn rules() -> impl Strategy<Value = Rules> {
        let rule = (proptest::collection::vec(condition(), 0..3), 1u32..5)
            .prop_map(|(conditions, verdict)| Rule { conditions, verdict });
        let calls = proptest::collection::btree_map(0u32..600, proptest::collection::vec(rule, 1..3), 0..300);
        (calls, 0u32..700).prop_map(|(calls, beyond)| Rules {
            calls,
            beyond,
            beyond_verdict: 7,
            otherwise: 6,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_program_says_what_its_rules_say(
            main in rules(),
            variant in rules(),
            probes in proptest::collection::vec((0u32..720, proptest::array::uniform6(value())), 50),
        ) {
            let program = compile(&BTreeMap::from([
                (Architecture::X86_64, main.clone()),
                (Architecture::X32, variant.clone()),
            ]));
            for (number, args) in probes {
                prop_assert_eq!(run(&program, Architecture::X86_64, number, args), expected(&main, number, args));
                prop_assert_eq!(
                    run(&program, Architecture::X32, number | X32_BIT, args),
                    expected(&variant, number, args)
                );
                prop_assert_eq!(run(&program, Architecture::Arm, number, args), KILL_PROCESS);
            }
        }
    }
}
