//! Patterns of files, as `.dockerignore` has them.
//!
//! The rules are those of the Dockerfile reference: the last pattern that
//! matches decides, `!` takes back, a pattern that matches a folder matches all
//! below it, `*` and `?` stop at slashes, `**` does not, and a pattern without
//! `**` is anchored at the root. `[^a-z]` and `[!a-z]` are both understood.

/// One piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// These bytes.
    Literal(Vec<u8>),
    /// One byte but a slash.
    Any,
    /// Any bytes but slashes.
    Star,
    /// Any folders: nothing, or anything that ends with a slash.
    Folders,
    /// Anything.
    Rest,
    /// One byte that is (or is not) in these ranges.
    Class(bool, Vec<(u8, u8)>),
}

/// One pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    tokens: Vec<Token>,
    negated: bool,
    /// As it was written.
    text: String,
}

/// A list of patterns, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<Pattern>);

impl Patterns {
    /// Reads patterns; blank ones say nothing.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        Self(patterns.into_iter().filter_map(Pattern::parse).collect())
    }

    /// Reads the content of a `.dockerignore`: one pattern a line, `#` at the
    /// start of a line makes it a comment.
    pub fn from_file(text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self::new(text.lines().filter(|line| !line.starts_with('#')))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pattern by which a path (relative, with `/`) is matched, as written;
    /// `None` when it is not, or a later pattern took that back.
    pub fn matching(&self, path: &[u8]) -> Option<&str> {
        // From the end: the last one that matches decides.
        let last = self.0.iter().rev().find(|pattern| pattern.covers(path))?;
        (!last.negated).then_some(last.text.as_str())
    }

    /// Whether a folder that is matched may have files in it that are not: a
    /// pattern with `!` leads below it.
    pub fn may_take_back_below(&self, folder: &[u8]) -> bool {
        self.0
            .iter()
            .any(|pattern| pattern.negated && pattern.leads_below(folder))
    }

    /// Whether something below a folder may be matched.
    pub fn may_match_below(&self, folder: &[u8]) -> bool {
        self.0
            .iter()
            .any(|pattern| !pattern.negated && (pattern.covers(folder) || pattern.leads_below(folder)))
    }
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (negated, body) = match text.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, text),
        };
        if body.is_empty() {
            return None;
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in body.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                other => parts.push(other),
            }
        }
        // The root itself: everything.
        let clean = if parts.is_empty() {
            "**".to_owned()
        } else {
            parts.join("/")
        };
        Some(Self {
            tokens: tokens(clean.as_bytes()),
            negated,
            text: text.to_owned(),
        })
    }

    /// Whether it matches the path or a folder that the path is in.
    fn covers(&self, path: &[u8]) -> bool {
        let reached = self.reach(path);
        reached
            .iter()
            .enumerate()
            .any(|(at, reached)| *reached && at > 0 && (at == path.len() || path.get(at) == Some(&b'/')))
    }

    /// Which lengths of the path the whole pattern can match.
    fn reach(&self, path: &[u8]) -> Vec<bool> {
        let mut reached = vec![false; path.len() + 1];
        if let Some(first) = reached.first_mut() {
            *first = true;
        }
        for token in &self.tokens {
            let next = advance(token, path, &reached);
            if !next.contains(&true) {
                return next;
            }
            reached = next;
        }
        reached
    }

    /// Whether the pattern may match something below the folder: some of it is
    /// left when the folder has been matched.
    fn leads_below(&self, folder: &[u8]) -> bool {
        let mut path = folder.to_vec();
        path.push(b'/');
        let mut reached = vec![false; path.len() + 1];
        if let Some(first) = reached.first_mut() {
            *first = true;
        }
        for token in &self.tokens {
            // A literal may go on behind the end of the folder.
            if let Token::Literal(literal) = token {
                let goes_on = reached.iter().enumerate().any(|(at, here)| {
                    let left = path.get(at..).unwrap_or_default();
                    *here && literal.len() >= left.len() && literal.starts_with(left)
                });
                if goes_on {
                    return true;
                }
            }
            reached = advance(token, &path, &reached);
            if reached.last() == Some(&true) {
                return true;
            }
        }
        false
    }
}

/// The positions that a token leads to from those that are reached.
fn advance(token: &Token, path: &[u8], reached: &[bool]) -> Vec<bool> {
    let mut next = vec![false; reached.len()];
    let mut set = |at: usize| {
        if let Some(slot) = next.get_mut(at) {
            *slot = true;
        }
    };
    let mut open = false;
    for (at, here) in reached.iter().enumerate() {
        let byte = path.get(at).copied();
        match token {
            Token::Literal(literal) => {
                if *here && path.get(at..).is_some_and(|rest| rest.starts_with(literal)) {
                    set(at + literal.len());
                }
            }
            Token::Any => {
                if *here && byte.is_some_and(|byte| byte != b'/') {
                    set(at + 1);
                }
            }
            Token::Class(inverted, ranges) => {
                let within = |byte: u8| ranges.iter().any(|(from, to)| (*from..=*to).contains(&byte));
                if *here && byte.is_some_and(|byte| byte != b'/' && within(byte) != *inverted) {
                    set(at + 1);
                }
            }
            Token::Star => {
                open |= *here;
                if open {
                    set(at);
                }
                open &= byte != Some(b'/');
            }
            Token::Rest => {
                open |= *here;
                if open {
                    set(at);
                }
            }
            Token::Folders => {
                if *here {
                    set(at);
                }
                if open && at > 0 && path.get(at - 1) == Some(&b'/') {
                    set(at);
                }
                open |= *here;
            }
        }
    }
    next
}

fn tokens(text: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut literal = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.get(at).copied() {
        at += 1;
        let token = match byte {
            b'*' if text.get(at) == Some(&b'*') => {
                while text.get(at) == Some(&b'*') {
                    at += 1;
                }
                if text.get(at) == Some(&b'/') {
                    at += 1;
                }
                if at >= text.len() {
                    Token::Rest
                } else {
                    Token::Folders
                }
            }
            b'*' => Token::Star,
            b'?' => Token::Any,
            b'[' => match class(text.get(at..).unwrap_or_default()) {
                Some((token, length)) => {
                    at += length;
                    token
                }
                // Not closed: itself.
                None => {
                    literal.push(byte);
                    continue;
                }
            },
            b'\\' => {
                literal.push(text.get(at).copied().unwrap_or(byte));
                at += 1;
                continue;
            }
            other => {
                literal.push(other);
                continue;
            }
        };
        if !literal.is_empty() {
            tokens.push(Token::Literal(std::mem::take(&mut literal)));
        }
        tokens.push(token);
    }
    if !literal.is_empty() {
        tokens.push(Token::Literal(literal));
    }
    tokens
}

/// A class, from behind its `[`, and its length with the `]`.
fn class(text: &[u8]) -> Option<(Token, usize)> {
    let inverted = matches!(text.first(), Some(b'^' | b'!'));
    let mut at = usize::from(inverted);
    let mut ranges = Vec::new();
    let one = |at: &mut usize| -> Option<u8> {
        if text.get(*at) == Some(&b'\\') {
            *at += 1;
        }
        let byte = text.get(*at).copied()?;
        *at += 1;
        Some(byte)
    };
    loop {
        match text.get(at)? {
            b']' if !ranges.is_empty() => return Some((Token::Class(inverted, ranges), at + 1)),
            _ => {
                let from = one(&mut at)?;
                let range = text.get(at) == Some(&b'-') && text.get(at + 1).is_some_and(|byte| *byte != b']');
                let to = if range {
                    at += 1;
                    one(&mut at)?
                } else {
                    from
                };
                ranges.push((from, to));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_dockerfile_reference_says() {
        // Pattern, path, whether it is matched.
        for (pattern, path, expected) in [
            ("foo", "foo", true),
            ("/foo/", "foo/bar", true),
            ("./foo", "foo", true),
            ("foo", "a/foo", false),
            ("foo", "foobar", false),
            ("*/temp*", "some/temporary.txt", true),
            ("*/temp*", "some/temp/below", true),
            ("*/temp*", "a/b/temp", false),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("temp?", "temp/", false),
            ("**/*.go", "a.go", true),
            ("**/*.go", "a/b/c.go", true),
            ("**/*.go", "a/b/c.god", false),
            ("a/**", "a/b/c", true),
            ("a/**", "b", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a/**/z", "a/bz", false),
            ("**", "anything/at/all", true),
            (".", "anything", true),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[^a-c]x", "dx", true),
            ("[!a-c]x", "bx", false),
            ("[]]x", "]x", true),
            ("[a", "[a", true),
            (r"\*x", "*x", true),
            (r"\*x", "ax", false),
            ("a/../b", "b", true),
            ("*", "a/b", true),
            ("*a*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            let patterns = Patterns::new([pattern]);
            let matched = patterns.matching(path.as_bytes()).is_some();
            assert_eq!(matched, expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn the_last_one_that_matches_decides() {
        let patterns = Patterns::from_file("# all but sources\n*\n!src\nsrc/**/*.tmp\n\n !src/keep.tmp \n");
        for (path, by) in [
            ("a", Some("*")),
            ("src", None),
            ("src/a", None),
            ("src/a/b.tmp", Some("src/**/*.tmp")),
            ("src/keep.tmp", None),
        ] {
            assert_eq!(patterns.matching(path.as_bytes()), by, "{path}");
        }
    }

    #[test]
    fn folders_are_left_out_when_nothing_below_is_taken_back() {
        let below = |patterns: &[&str], folder: &str| {
            Patterns::new(patterns.iter().copied()).may_take_back_below(folder.as_bytes())
        };
        assert!(!below(&["node_modules"], "node_modules"));
        assert!(below(&["*", "!src/a"], "src"));
        assert!(!below(&["*", "!src/a"], "sr"));
        assert!(!below(&["*", "!src/a"], "lib"));
        assert!(below(&["*", "!**/keep"], "a/b"));
        assert!(below(&["*", "!*/keep"], "a"));
        assert!(!below(&["*", "!*/keep"], "a/b"));
        assert!(below(&["a", "!a/b/c/d"], "a/b"));
        let include = Patterns::new(["src/*.js"]);
        assert!(include.may_match_below(b"src") && !include.may_match_below(b"lib"));
    }
}
