//! Headers on their way through: those of one connection stay there (RFC 9110, 7.6.1), and the backend is told who asked.

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

/// Headers that are about one connection.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The protocol that a request asks to go over to: WebSocket and the like, in HTTP/1.1 only.
pub fn upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = version == Version::HTTP_11 && listed(headers).any(|name| name == "upgrade");
    headers.get(UPGRADE).filter(|_| asked).cloned()
}

fn listed(headers: &HeaderMap) -> impl Iterator<Item = String> + '_ {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase())
}

/// Takes away what is about one connection.
pub fn strip(headers: &mut HeaderMap) {
    let framed = headers.contains_key(TRANSFER_ENCODING);
    let trailers = headers.get(TE).is_some_and(|te| te.to_str().is_ok_and(|te| te.split(',').any(|t| t.trim() == "trailers")));
    let named: Vec<HeaderName> = listed(headers).filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if framed {
        // Chunks decide; a length beside them is how requests are smuggled.
        headers.remove(CONTENT_LENGTH);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Who asked, by what, for which host. What the client says of that itself is not believed.
pub fn tell(headers: &mut HeaderMap, client: IpAddr, tls: bool, host: &HeaderValue, port: u16) {
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("x-forwarded-for", &client.to_string());
    set("x-real-ip", &client.to_string());
    set("x-forwarded-proto", if tls { "https" } else { "http" });
    set("x-forwarded-port", &port.to_string());
    headers.remove("forwarded");
    headers.insert(HeaderName::from_static("x-forwarded-host"), host.clone());
}

/// HTTP/2 may split cookies over several headers, HTTP/1.1 may not (RFC 9113, 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// The host that a request asks for, as it says it and as rules know it; `None`: none or several, or no host at all.
pub fn host(uri: &http::Uri, headers: &HeaderMap) -> Option<(HeaderValue, String)> {
    let mut hosts = headers.get_all(HOST).iter();
    let (first, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return None;
    }
    let said = match uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok()?,
        None => first?.clone(),
    };
    let authority: http::uri::Authority = said.to_str().ok()?.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    (!name.is_empty()).then_some((said, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?));
        pairs.iter().filter_map(pair).fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
    }

    #[test]
    fn what_is_about_one_connection_stays_there() {
        let mut headers = map(&[
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("accept", "*/*"),
        ]);
        strip(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers"), ("accept", "*/*")]));
    }

    #[test]
    fn a_client_cannot_say_who_it_is() {
        let mut headers = map(&[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-for", "10.0.0.2"), ("forwarded", "for=1.2.3.4")]);
        tell(&mut headers, IpAddr::from([192, 0, 2, 1]), true, &HeaderValue::from_static("a.example"), 443);
        let said: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(said, ["192.0.2.1"]);
        assert_eq!((headers["x-forwarded-proto"].to_str().ok(), headers.contains_key("forwarded")), (Some("https"), false));
    }

    #[test]
    fn a_request_has_one_host() {
        let check = |uri: &str, hosts: &[&str], expected: Option<&str>| {
            let pairs: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            let found = host(&uri.parse().expect("a URI"), &map(&pairs));
            assert_eq!(found.map(|(_, name)| name).as_deref(), expected, "{uri} {hosts:?}");
        };
        check("/", &["A.Example:8080"], Some("a.example"));
        check("/", &["a.example."], Some("a.example"));
        check("http://b.example/", &["a.example"], Some("b.example"));
        check("/", &["[::1]:80"], Some("[::1]"));
        check("/", &[], None);
        check("/", &["a.example", "b.example"], None);
        check("/", &["user@a.example"], None);
        check("/", &["a b"], None);
        check("/", &[":80"], None);
    }

    #[test]
    fn only_http_1_1_goes_over_to_another_protocol() {
        let headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(upgrade(Version::HTTP_11, &headers), Some(HeaderValue::from_static("websocket")));
        assert_eq!(upgrade(Version::HTTP_10, &headers), None);
        assert_eq!(upgrade(Version::HTTP_11, &map(&[("upgrade", "websocket")])), None);
    }
}
