//! `WWW-Authenticate`: what a registry wants to see (RFC 9110, section 11.6.1).

/// One challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Lower case.
    pub(super) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self
            .parameters
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Reads the challenges of one header line. What cannot be read ends the list.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (word, after) = token(rest);
        if word.is_empty() {
            break;
        }
        let after_word = after.trim_start();
        if let (Some(value), Some(challenge)) = (after_word.strip_prefix('='), challenges.last_mut()) {
            let (value, after) = value_of(value.trim_start());
            challenge.parameters.push((word.to_owned(), value));
            rest = after.trim_start_matches([' ', '\t', ',']);
        } else {
            challenges.push(Challenge {
                scheme: word.to_ascii_lowercase(),
                parameters: Vec::new(),
            });
            rest = after.trim_start_matches([' ', '\t', ',']);
        }
    }
    challenges
}

fn token(text: &str) -> (&str, &str) {
    let end = text.find([' ', '\t', ',', '=', '"']).unwrap_or(text.len());
    text.split_at(end)
}

/// A token or a quoted string.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = token(text);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            _ => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn several_challenges_in_one_line() {
        let list = parse(
            r#"Bearer realm="https://auth.x/token",service="reg \"1\"" , scope="repository:a:pull,push", Basic realm=plain"#,
        );
        assert_eq!(list.len(), 2);
        assert_eq!(list[0].scheme, "bearer");
        assert_eq!(list[0].parameter("Realm"), Some("https://auth.x/token"));
        assert_eq!(list[0].parameter("service"), Some("reg \"1\""));
        assert_eq!(list[0].parameter("scope"), Some("repository:a:pull,push"));
        assert_eq!(
            (list[1].scheme.as_str(), list[1].parameter("realm")),
            ("basic", Some("plain"))
        );
        assert_eq!(parse("Basic")[0].scheme, "basic");
        assert!(parse("").is_empty());
    }

    proptest! {
        #[test]
        fn any_header_is_read(text in "\\PC*") {
            parse(&text);
        }

        #[test]
        fn any_mixture_is_read(text in "[a-c=\", \\\\]{0,40}") {
            parse(&text);
        }
    }
}
