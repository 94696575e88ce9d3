//! Addresses of registries: redirects, ranges, and who may see a secret.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Response, Uri};

/// `registry:5000` without its port.
pub(super) fn host_of(authority: &str) -> &str {
    if let Some(address) = authority.strip_prefix('[') {
        return address.split(']').next().unwrap_or_default();
    }
    authority.split(':').next().unwrap_or_default()
}

/// Whether traffic to a host stays on this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

pub(super) fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| {
        uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        })
    };
    a.scheme() == b.scheme() && a.host() == b.host() && port(a) == port(b)
}

/// Where a response sends us.
pub(super) fn redirect(response: &Response<Incoming>) -> Option<String> {
    let follow = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    follow.then(|| location.to_owned())
}

/// A `Location`, which may be relative. From HTTPS it must not lead to plain
/// HTTP, unless that stays on this machine.
pub(super) fn resolve_uri(base: &Uri, location: &str) -> Option<Uri> {
    let uri: Uri = location.parse().ok()?;
    let uri = if uri.scheme().is_some() {
        uri
    } else {
        let (scheme, authority) = (base.scheme_str()?, base.authority()?);
        let text = if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{location}")
        };
        text.parse().ok()?
    };
    match uri.scheme_str() {
        Some("https") => Some(uri),
        Some("http") if base.scheme_str() == Some("http") || uri.host().is_some_and(is_loopback) => Some(uri),
        _ => None,
    }
}

/// The first byte of a partial answer: `Content-Range: bytes 5-9/10`.
pub(super) fn range_start(response: &Response<Incoming>) -> Option<u64> {
    let value = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    value
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .trim()
        .parse()
        .ok()
}

/// `Retry-After`: seconds, or a date.
pub(super) fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let seconds = date.as_second() - jiff::Timestamp::now().as_second();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// A value of a form (RFC 3986, section 2.3: all but unreserved characters).
pub(super) fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let base: Uri = "https://a.test:444/v2/x/blobs/1?q=1".parse().unwrap();
        let at = |location: &str| resolve_uri(&base, location).map(|uri| uri.to_string());
        assert_eq!(at("https://b.test/x?y=1").unwrap(), "https://b.test/x?y=1");
        assert_eq!(at("/other").unwrap(), "https://a.test:444/other");
        assert_eq!(at("2").unwrap(), "https://a.test:444/v2/x/blobs/2");
        assert_eq!(at("//c.test/x").unwrap(), "https://c.test/x");
        assert_eq!(
            at("http://b.test/x"),
            None,
            "secrets of the image would be readable"
        );
        assert_eq!(at("http://127.0.0.1:1/x").unwrap(), "http://127.0.0.1:1/x");
        assert_eq!(at("ftp://b.test/x"), None);
    }

    #[test]
    fn origins() {
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://a/x", "https://a:443/y"));
        assert!(!same("https://a/x", "http://a/x"));
        assert!(!same("http://a:1/x", "http://a:2/x"));
        assert!(!same("http://a/x", "http://b/x"));
    }

    #[test]
    fn loopback_hosts() {
        for host in ["localhost", "127.0.0.1", "127.3.2.1", "::1", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "10.0.0.1", "docker.io", "127.0.0.1.example"] {
            assert!(!is_loopback(host), "{host}");
        }
        assert_eq!(host_of("[::1]:5000"), "::1");
        assert_eq!(host_of("localhost:5000"), "localhost");
    }

    #[test]
    fn pauses_that_a_registry_asks_for() {
        let after = |text| retry_after(&HeaderValue::from_static(text));
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(after("Fri, 06 Nov 2099 08:49:37 GMT").unwrap() > Duration::from_secs(86400));
        assert_eq!(after("soon"), None);
    }
}
