//! What `logging` says of the built-in log drivers.

use std::collections::BTreeMap;

use super::Logging;

/// The log drivers there are.
pub const LOG_DRIVERS: [&str; 3] = ["json-file", "local", "none"];

/// How much of a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// Bytes after which a new file is begun; `None` is never.
    pub max_size: Option<u64>,
    /// Most files, the present one included; at least 1.
    pub max_files: u32,
}

impl Logging {
    /// The bounds that its options say, with the defaults of its driver: `local`
    /// keeps five files of 20 MB, the others keep everything (docs.docker.com,
    /// "Configure logging drivers").
    ///
    /// # Errors
    /// What is wrong with an option, in words: one that the driver does not know
    /// or that is not done, or a value that is none.
    pub fn bounds(&self) -> Result<LogBounds, String> {
        let driver = self.driver.as_deref().unwrap_or_default();
        let mut bounds = match driver {
            "local" => LogBounds {
                max_size: Some(20_000_000),
                max_files: 5,
            },
            _ => LogBounds {
                max_size: None,
                max_files: 1,
            },
        };
        for (option, value) in &self.options {
            let wrong = |expected: &str| Err(format!("{option}: {value:?} is not {expected}"));
            match (option.as_str(), value.as_str()) {
                _ if driver == "none" => return Err(format!("{option}: driver none has no options")),
                ("max-size", "-1") => bounds.max_size = None,
                ("max-size", value) => match size(value) {
                    Some(size) => bounds.max_size = Some(size),
                    None => return wrong("a size like 10m"),
                },
                ("max-file", value) => match value.parse() {
                    Ok(files) if files > 0 => bounds.max_files = files,
                    _ => return wrong("a number from 1 on"),
                },
                // What is written is never compressed, and the container waits
                // for nothing but the disk.
                ("compress", "false") | ("mode", "blocking") => {}
                ("compress" | "mode", _) => return wrong("supported"),
                _ => {
                    return Err(format!(
                        "{option}: the options are max-size, max-file, compress=false and mode=blocking"
                    ));
                }
            }
        }
        Ok(bounds)
    }

    /// From the fields of a document.
    pub(super) fn of(driver: Option<&str>, options: BTreeMap<String, String>) -> Self {
        Self {
            driver: driver.map(str::to_owned),
            options,
        }
    }
}

/// Bytes of `10m`, `1.5MB`, `20000`: powers of 1000, as Docker reads this option.
fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (number, factor) = match text.strip_suffix(['k', 'm', 'g', 't']) {
        Some(number) => {
            let power = "kmgt".find(text.get(number.len()..)?)?;
            (number, 1000_u64.pow(u32::try_from(power + 1).ok()?))
        }
        None => (text, 1),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 6 {
        return None;
    }
    let mut size = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if !part.is_empty() {
        let parts = 10_u64.pow(u32::try_from(part.len()).ok()?);
        size = size.checked_add(part.parse::<u64>().ok()?.checked_mul(factor)? / parts)?;
    }
    Some(size).filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(driver: &str, options: &[(&str, &str)]) -> Result<(Option<u64>, u32), String> {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let found = Logging::of(Some(driver), options.collect()).bounds()?;
        Ok((found.max_size, found.max_files))
    }

    #[test]
    fn options_are_understood_or_refused() {
        assert_eq!(bounds("json-file", &[]), Ok((None, 1)));
        assert_eq!(bounds("local", &[]), Ok((Some(20_000_000), 5)));
        assert_eq!(
            bounds("json-file", &[("max-size", "1.5m"), ("max-file", "3")]),
            Ok((Some(1_500_000), 3))
        );
        assert_eq!(bounds("local", &[("max-size", "-1")]), Ok((None, 5)));
        for (text, expected) in [("20kb", 20_000), ("7", 7), ("2G", 2_000_000_000)] {
            assert_eq!(size(text), Some(expected), "{text}");
        }
        for wrong in ["", "0", "k", "-5", "1x", "1.2.3m", "99999999999999t"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
        for (driver, option, value) in [
            ("json-file", "max-file", "0"),
            ("json-file", "compress", "true"),
            ("local", "mode", "non-blocking"),
            ("json-file", "tag", "x"),
            ("none", "max-size", "1m"),
        ] {
            let error = bounds(driver, &[(option, value)]).unwrap_err();
            assert!(error.starts_with(&format!("{option}: ")), "{error}");
        }
    }
}
