//! Command lines as words, split as a shell would, without a shell: quotes
//! and backslashes are taken away, nothing is expanded. `;`, `|`, `<`, `>` and
//! `&` are ordinary characters (docker compose drops what follows them).

/// A quote or backslash without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid command line string")]
pub struct WordsError;

/// The words of a command line.
///
/// # Errors
/// [`WordsError`] when a quote is not closed or a backslash ends the line.
pub fn split_words(line: &str) -> Result<Vec<String>, WordsError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                let escaped = match characters.next().ok_or(WordsError)? {
                    't' => '\t',
                    'n' => '\n',
                    other => other,
                };
                word.get_or_insert_default().push(escaped);
            }
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (' ' | '\t' | '\r' | '\n', None) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(WordsError);
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines() {
        for (line, words) in [
            ("", &[][..]),
            ("  ", &[]),
            ("a b  c", &["a", "b", "c"]),
            ("a 'b c' d", &["a", "b c", "d"]),
            (r#"sh -c "echo \"x\" \$Y""#, &["sh", "-c", r#"echo "x" $Y"#]),
            (r"a\ b", &["a b"]),
            (r"'a\nb'", &[r"a\nb"]),
            (r"a\nb", &["a\nb"]),
            ("'' x", &["", "x"]),
            ("a=b'c'd", &["a=bcd"]),
            ("a | b > c", &["a", "|", "b", ">", "c"]),
            ("a\n  b", &["a", "b"]),
        ] {
            assert_eq!(split_words(line).unwrap(), words, "{line}");
        }
        for line in ["'a", "\"a", "a\\"] {
            assert_eq!(split_words(line), Err(WordsError));
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(line in any::<String>()) {
            let _ = split_words(&line);
        }

        #[test]
        fn quoted_words_come_back(words in proptest::collection::vec("[^']*", 0..5)) {
            let line = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(split_words(&line).unwrap(), words);
        }
    }
}
