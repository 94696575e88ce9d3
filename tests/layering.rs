//! Who may import whom. Reads the arrows in `src/lib.rs` and every path that
//! begins at the crate's root in `src/`, and fails on one that is not allowed.
//! Also: `unsafe` stands only in `src/sys/`, and the pure modules touch
//! neither files, environment, clock nor network.
//!
//! The sources are read as words, not compiled: comments and texts are
//! skipped, `use` groups and `super::super::` are followed, macros are not
//! expanded.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What a pure module must not name (tests beside the code may).
const EFFECTS: [&str; 19] = [
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "std::time::Instant",
    "std::time::SystemTime",
    "libc",
    "nix",
    "rustix",
    "tokio",
    "notify",
    "hyper",
];

/// Pure modules' doors to the world: a file, and why it may have effects.
const DOORS: [(&str, &str); 1] = [(
    "stack/source.rs",
    "reads the stack files; everything else in stack works on what it read",
)];

#[test]
fn imports_follow_the_arrows() {
    let root = root();
    let map = std::fs::read_to_string(root.join("lib.rs")).unwrap();
    let arrows = arrows(&map);
    let mut faults = Vec::new();
    for (module, allowed) in &arrows {
        for other in allowed {
            if !arrows.contains_key(other) {
                faults.push(format!(
                    "src/lib.rs: {module} -> {other}: no such module in the table"
                ));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for file in sources(&root) {
        let Some(module) = module_of(&root, &file) else {
            continue;
        };
        seen.insert(module.clone());
        let Some(allowed) = arrows.get(&module) else {
            faults.push(format!(
                "{}: module {module} is not in the table of src/lib.rs",
                name(&file)
            ));
            continue;
        };
        let text = std::fs::read_to_string(&file).unwrap();
        for import in imports(&text, depth(&root, &file)) {
            if import.module != module
                && arrows.contains_key(&import.module)
                && !allowed.contains(&import.module)
            {
                faults.push(format!(
                    "{}:{}: {module} must not use {}",
                    name(&file),
                    import.line,
                    import.module
                ));
            }
        }
    }
    for module in arrows.keys().filter(|module| !seen.contains(*module)) {
        faults.push(format!("src/lib.rs: the table has {module}, which has no source"));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn arrows_go_one_way() {
    let map = std::fs::read_to_string(root().join("lib.rs")).unwrap();
    let mut left = arrows(&map);
    while let Some(free) = left
        .iter()
        .find(|(_, uses)| uses.iter().all(|other| !left.contains_key(other)))
    {
        let free = free.0.clone();
        left.remove(&free);
    }
    assert!(
        left.is_empty(),
        "these modules use each other in a circle: {:?}",
        left.keys()
    );
}

#[test]
fn unsafe_stands_only_in_sys() {
    let root = root();
    let mut faults = Vec::new();
    for file in sources(&root) {
        if file.starts_with(root.join("sys")) {
            continue;
        }
        for word in words(&std::fs::read_to_string(&file).unwrap()) {
            if word.text == "unsafe" || word.text == "unsafe_code" {
                faults.push(format!("{}:{}: {}", name(&file), word.line, word.text));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "unsafe outside src/sys:\n{}",
        faults.join("\n")
    );
}

#[test]
fn pure_modules_have_no_effects() {
    let root = root();
    let map = std::fs::read_to_string(root.join("lib.rs")).unwrap();
    let pure = pure_modules(&map);
    assert!(
        pure.contains("plan") && pure.contains("graph"),
        "the table of modules is not understood: {pure:?}"
    );
    let mut faults = Vec::new();
    for file in sources(&root) {
        let Some(module) = module_of(&root, &file).filter(|module| pure.contains(module)) else {
            continue;
        };
        let inside = file.strip_prefix(&root).unwrap();
        if inside.ends_with("tests.rs") || DOORS.iter().any(|(door, _)| inside == Path::new(door)) {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        for path in paths(text) {
            let joined = path.segments.join("::");
            // What the program was compiled for is no effect, and neither are
            // threads that have ended when a function returns.
            let harmless = [
                "std::env::consts",
                "std::thread::scope",
                "std::thread::available_parallelism",
            ];
            if harmless.iter().any(|one| joined.starts_with(one)) {
                continue;
            }
            let effect = EFFECTS.iter().find(|effect| {
                joined == **effect
                    || joined
                        .strip_prefix(**effect)
                        .is_some_and(|rest| rest.starts_with("::"))
            });
            if let Some(effect) = effect {
                faults.push(format!(
                    "{}:{}: pure module {module} uses {effect}",
                    name(&file),
                    path.line
                ));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// The reader is itself worth a test: what it does not see, it cannot forbid.
#[test]
fn all_forms_of_import_are_seen() {
    let text = r##"
        //! [`crate::comment::X`]
        use crate::one::X;
        use crate::{two::{A, B}, three, self as me};
        fn f<'a>(x: &'a crate::four::T) { let s = "crate::text::X"; let r = r#"crate::raw::"Y"#; let c = '"'; }
        /* crate::block::X /* nested */ crate::block::Y */
        use super::super::five::Z;
        mod inner { use super::super::super::six::W; use super::super::near::V; }
        pub(crate) use crate :: seven;
        pub(in crate::eight) struct S;
        use ::rcompose::nine::N;
        use std::{fs, io::{self, Read}};
    "##;
    let found: Vec<String> = imports(text, 2).into_iter().map(|import| import.module).collect();
    assert_eq!(
        found,
        [
            "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"
        ]
    );
    let paths: Vec<String> = paths(text)
        .into_iter()
        .map(|path| path.segments.join("::"))
        .collect();
    for expected in ["crate::two::B", "std::fs", "std::io::Read", "std::io::self"] {
        assert!(
            paths.iter().any(|path| path == expected),
            "{expected} in {paths:?}"
        );
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn name(file: &Path) -> String {
    let base = Path::new(env!("CARGO_MANIFEST_DIR"));
    file.strip_prefix(base).unwrap_or(file).display().to_string()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The top-level module of a file; `None` for the map itself.
fn module_of(root: &Path, file: &Path) -> Option<String> {
    let inside = file.strip_prefix(root).unwrap();
    let first = inside.components().next()?.as_os_str().to_str()?;
    let module = first.strip_suffix(".rs").unwrap_or(first);
    (module != "lib").then(|| module.to_owned())
}

/// How many modules deep a file is: `src/plan/mod.rs` is 1, `src/plan/diff.rs` 2.
fn depth(root: &Path, file: &Path) -> usize {
    let inside = file.strip_prefix(root).unwrap();
    let parts = inside.components().count();
    if inside.ends_with("mod.rs") {
        parts - 1
    } else {
        parts
    }
}

fn arrows(map: &str) -> BTreeMap<String, BTreeSet<String>> {
    let lines = map.lines().map(|line| line.trim_start_matches("//!").trim());
    let table = lines
        .skip_while(|line| *line != "```arrows")
        .skip(1)
        .take_while(|line| *line != "```");
    let arrows: BTreeMap<_, _> = table
        .map(|line| {
            let (module, uses) = line.split_once("->").expect("module -> modules");
            (
                module.trim().to_owned(),
                uses.split_whitespace().map(str::to_owned).collect(),
            )
        })
        .collect();
    assert!(!arrows.is_empty(), "src/lib.rs has no ```arrows block");
    arrows
}

/// The modules that the table of `src/lib.rs` calls pure.
fn pure_modules(map: &str) -> BTreeSet<String> {
    map.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("//! | [`")?.split('|').map(str::trim);
            let module = cells.next()?.strip_suffix("`]")?;
            (cells.next()? == "pure").then(|| module.to_owned())
        })
        .collect()
}

struct Import {
    module: String,
    line: usize,
}

/// The top-level modules that a source names, by `crate::`, `rcompose::` or
/// enough `super::`.
fn imports(text: &str, depth: usize) -> Vec<Import> {
    paths(text)
        .into_iter()
        .filter_map(|path| {
            let supers = path
                .segments
                .iter()
                .take_while(|segment| *segment == "super")
                .count();
            let at = match path.segments.first()?.as_str() {
                "crate" | "rcompose" => 1,
                "super" if supers == depth + path.inside => supers,
                _ => return None,
            };
            let module = path.segments.get(at)?;
            (module != "self" && module != "*").then(|| Import {
                module: module.clone(),
                line: path.line,
            })
        })
        .fold(Vec::new(), |mut imports, import| {
            let repeated = imports
                .last()
                .is_some_and(|last: &Import| last.module == import.module && last.line == import.line);
            if !repeated {
                imports.push(import);
            }
            imports
        })
}

/// A path of names, with groups taken apart: `a::{b, c}` is two.
struct Named {
    segments: Vec<String>,
    line: usize,
    /// How many `mod name { … }` of this file it stands in.
    inside: usize,
}

fn paths(text: &str) -> Vec<Named> {
    let words = words(text);
    let mut found = Vec::new();
    let mut at = 0;
    let mut braces = 0_usize;
    let mut modules: Vec<usize> = Vec::new();
    while at < words.len() {
        match words[at].text.as_str() {
            "{" => {
                braces += 1;
                at += 1;
            }
            "}" => {
                if modules.last() == Some(&braces) {
                    modules.pop();
                }
                braces = braces.saturating_sub(1);
                at += 1;
            }
            "mod" if words.get(at + 2).is_some_and(|word| word.text == "{") => {
                braces += 1;
                modules.push(braces);
                at += 3;
            }
            "use" | "in" | "as" | "return" => at += 1,
            text if is_name(text) => at = path(&words, at, &[], modules.len(), &mut found),
            _ => at += 1,
        }
    }
    found
}

/// Reads one path from `at`; returns where it ends.
fn path(words: &[Word], mut at: usize, before: &[String], inside: usize, found: &mut Vec<Named>) -> usize {
    let mut segments = before.to_vec();
    let line = words[at].line;
    segments.push(words[at].text.clone());
    at += 1;
    while words.get(at).is_some_and(|word| word.text == "::") {
        match words.get(at + 1).map(|word| word.text.as_str()) {
            Some("{") => {
                at += 2;
                while let Some(word) = words.get(at) {
                    match word.text.as_str() {
                        "}" => return at + 1,
                        "as" => at += 2,
                        "*" => {
                            let mut all = segments.clone();
                            all.push("*".into());
                            found.push(Named {
                                segments: all,
                                line: word.line,
                                inside,
                            });
                            at += 1;
                        }
                        text if is_name(text) => at = path(words, at, &segments, inside, found),
                        _ => at += 1,
                    }
                }
                return at;
            }
            Some(name) if is_name(name) || name == "*" => {
                segments.push(name.to_owned());
                at += 2;
            }
            _ => {
                at += 1;
                break;
            }
        }
    }
    if segments.len() > 1 {
        found.push(Named {
            segments,
            line,
            inside,
        });
    }
    at
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

struct Word {
    text: String,
    line: usize,
}

/// Names and signs of a source, without comments, texts and lifetimes.
fn words(text: &str) -> Vec<Word> {
    let chars: Vec<char> = text.chars().collect();
    let mut words = Vec::new();
    let mut line = 1;
    let mut at = 0;
    let is = |at: usize, expected: char| chars.get(at) == Some(&expected);
    while let Some(&first) = chars.get(at) {
        let start = at;
        if first == '/' && is(at + 1, '/') {
            while at < chars.len() && !is(at, '\n') {
                at += 1;
            }
        } else if first == '/' && is(at + 1, '*') {
            let mut open = 1;
            at += 2;
            while at < chars.len() && open > 0 {
                match (chars[at], chars.get(at + 1)) {
                    ('/', Some('*')) => (open, at) = (open + 1, at + 2),
                    ('*', Some('/')) => (open, at) = (open - 1, at + 2),
                    _ => at += 1,
                }
            }
        } else if let Some(end) = raw_text(&chars, at) {
            at = end;
        } else if first == '"' {
            at += 1;
            while at < chars.len() && !is(at, '"') {
                at += if is(at, '\\') { 2 } else { 1 };
            }
            at += 1;
        } else if first == '\'' {
            // A character ends with a quote, a lifetime does not.
            if is(at + 1, '\\') {
                at += 3;
                while at < chars.len() && !is(at, '\'') {
                    at += 1;
                }
                at += 1;
            } else if is(at + 2, '\'') {
                at += 3;
            } else {
                at += 2;
                while chars.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_') {
                    at += 1;
                }
            }
        } else if first.is_alphanumeric() || first == '_' {
            while chars.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_') {
                at += 1;
            }
            words.push(Word {
                text: chars[start..at].iter().collect(),
                line,
            });
        } else if first == ':' && is(at + 1, ':') {
            at += 2;
            words.push(Word {
                text: "::".into(),
                line,
            });
        } else {
            at += 1;
            if !first.is_whitespace() {
                words.push(Word {
                    text: first.to_string(),
                    line,
                });
            }
        }
        line += chars[start..at.min(chars.len())]
            .iter()
            .filter(|c| **c == '\n')
            .count();
    }
    words
}

/// Where a raw text that begins at `at` ends.
fn raw_text(chars: &[char], at: usize) -> Option<usize> {
    let mut from = at;
    if at > 0 && chars[at - 1].is_alphanumeric() {
        return None;
    }
    if matches!(chars.get(from), Some('b' | 'c')) {
        from += 1;
    }
    if chars.get(from) != Some(&'r') {
        return None;
    }
    from += 1;
    let hashes = chars[from..].iter().take_while(|c| **c == '#').count();
    if chars.get(from + hashes) != Some(&'"') {
        return None;
    }
    let mut end = from + hashes + 1;
    while end < chars.len() {
        if chars[end] == '"'
            && chars[end + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes
        {
            return Some(end + 1 + hashes);
        }
        end += 1;
    }
    Some(chars.len())
}
