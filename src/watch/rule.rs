//! One rule of `develop.watch`: which files it takes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::pattern::Patterns;

/// Patterns of one `.dockerignore`, and the folder they are relative to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoreFile {
    /// The file.
    pub file: PathBuf,
    /// What its patterns are relative to.
    pub base: PathBuf,
    patterns: Patterns,
}

impl IgnoreFile {
    /// Reads the file; one that is not there ignores nothing.
    pub fn read(file: PathBuf, base: PathBuf) -> Self {
        let text = std::fs::read(&file).unwrap_or_default();
        Self {
            patterns: Patterns::from_file(&String::from_utf8_lossy(&text)),
            file,
            base,
        }
    }
}

/// Which files below a path count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// File or folder, absolute, without links.
    pub path: PathBuf,
    include: Patterns,
    ignore: Patterns,
    files: Vec<IgnoreFile>,
}

/// What a rule says of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The path is not below the rule's.
    Elsewhere,
    /// It counts.
    Taken,
    /// It does not, and why.
    Passed(String),
}

impl Rule {
    /// A rule for `path`, with its patterns relative to it.
    pub fn new(path: PathBuf, include: &[String], ignore: &[String], files: Vec<IgnoreFile>) -> Self {
        Self {
            path,
            include: Patterns::new(include.iter().map(String::as_str)),
            ignore: Patterns::new(ignore.iter().map(String::as_str)),
            files,
        }
    }

    /// Whether the path is a `.dockerignore` of the rule.
    pub fn reads(&self, path: &Path) -> bool {
        self.files.iter().any(|file| file.file == path)
    }

    /// The path relative to the rule's; empty for that itself.
    pub fn relative<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        path.strip_prefix(&self.path).ok()
    }

    /// Whether a file counts, and if not, why. The rule's path itself does,
    /// whatever the patterns say.
    pub fn verdict(&self, path: &Path) -> Verdict {
        let Some(relative) = self.relative(path) else {
            return Verdict::Elsewhere;
        };
        if relative.as_os_str().is_empty() {
            return Verdict::Taken;
        }
        if let Some(what) = passing(relative) {
            return Verdict::Passed(what.to_owned());
        }
        let bytes = relative.as_os_str().as_bytes();
        if let Some(pattern) = self.ignore.matching(bytes) {
            return Verdict::Passed(format!("ignore: {pattern}"));
        }
        for file in &self.files {
            let Ok(relative) = path.strip_prefix(&file.base) else {
                continue;
            };
            if let Some(pattern) = file.patterns.matching(relative.as_os_str().as_bytes()) {
                return Verdict::Passed(format!("{}: {pattern}", file.file.display()));
            }
        }
        if !self.include.is_empty() && self.include.matching(bytes).is_none() {
            return Verdict::Passed("not in include".to_owned());
        }
        Verdict::Taken
    }

    /// Whether something in a folder may count: only such folders are opened.
    pub fn enters(&self, folder: &Path) -> bool {
        let Some(relative) = self.relative(folder) else {
            return false;
        };
        if relative.as_os_str().is_empty() {
            return true;
        }
        if passing(relative).is_some() {
            return false;
        }
        let bytes = relative.as_os_str().as_bytes();
        if self.ignore.matching(bytes).is_some() && !self.ignore.may_take_back_below(bytes) {
            return false;
        }
        for file in &self.files {
            let Ok(relative) = folder.strip_prefix(&file.base) else {
                continue;
            };
            let bytes = relative.as_os_str().as_bytes();
            if file.patterns.matching(bytes).is_some() && !file.patterns.may_take_back_below(bytes) {
                return false;
            }
        }
        self.include.is_empty() || self.include.may_match_below(bytes)
    }
}

/// What no rule takes: the files of version control, and those that editors
/// keep for themselves (as docker compose has it).
fn passing(relative: &Path) -> Option<&'static str> {
    for part in relative.iter() {
        if part == OsStr::new(".git") {
            return Some("version control");
        }
        if part == OsStr::new(".idea") {
            return Some("a file of an editor");
        }
    }
    let name = relative.file_name()?.as_bytes();
    let swap = [".swp", ".swo", ".swn", ".swx"].iter();
    let editor = name == b"4913"
        || name.ends_with(b"~")
        || name.starts_with(b".#")
        || (name.starts_with(b".") && swap.clone().any(|end| name.ends_with(end.as_bytes())))
        || name.ends_with(b"___jb_tmp___")
        || name.ends_with(b"___jb_old___")
        || name.ends_with(b".kate-swp")
        || name.starts_with(b".goutputstream-")
        || name.ends_with(b"-go-tmp-umask");
    editor.then_some("a file of an editor")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(include: &[&str], ignore: &[&str], file: Option<(&str, &str)>) -> Rule {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let files = file.into_iter().map(|(base, text)| IgnoreFile {
            file: Path::new(base).join(".dockerignore"),
            base: base.into(),
            patterns: Patterns::from_file(text),
        });
        Rule::new("/p/src".into(), &owned(include), &owned(ignore), files.collect())
    }

    #[test]
    fn files_are_taken_and_passed_by_every_list() {
        let rule = rule(
            &["**/*.js", "!lib/gen.js"],
            &["node_modules/"],
            Some(("/p", "src/secret*\n!src/secret-not.js")),
        );
        for (path, taken) in [
            ("/p/src/a.js", true),
            ("/p/src/lib/b.js", true),
            ("/p/src/lib/gen.js", false),
            ("/p/src/a.css", false),
            ("/p/src/node_modules/x.js", false),
            ("/p/src/secret.js", false),
            ("/p/src/secret-not.js", true),
            ("/p/src/.a.js.swp", false),
            ("/p/src/a.js~", false),
            ("/p/src/.git/x.js", false),
            ("/p/src", true),
        ] {
            let verdict = rule.verdict(Path::new(path));
            assert_eq!(verdict == Verdict::Taken, taken, "{path}: {verdict:?}");
        }
        assert_eq!(rule.verdict(Path::new("/p/srcs/a.js")), Verdict::Elsewhere);
        assert_eq!(
            rule.verdict(Path::new("/p/src/secret.js")),
            Verdict::Passed("/p/.dockerignore: src/secret*".to_owned())
        );
        for (folder, entered) in [
            ("/p/src/lib", true),
            ("/p/src/node_modules", false),
            ("/p/src/.git", false),
            ("/p/src/.idea", false),
            ("/p/other", false),
        ] {
            assert_eq!(rule.enters(Path::new(folder)), entered, "{folder}");
        }
    }
}
