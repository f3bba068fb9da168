//! Links in HTML that comes through the proxy: those that begin at the root of the server that they come from are made to lead back through it.

/// Attributes whose values are addresses.
const ADDRESSES: [&str; 12] =
    ["action", "background", "cite", "codebase", "data", "formaction", "href", "icon", "longdesc", "manifest", "poster", "src"];

/// The text with `base` before each address that begins with one slash; all else is as it was.
pub(super) fn rewritten(html: &str, base: &str) -> String {
    let mut out = String::with_capacity(html.len() + 256);
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        let close = rest[open..].find('>').map_or(rest.len(), |at| open + at + 1);
        out.push_str(&rest[..open]);
        tag(&rest[open..close], base, &mut out);
        rest = &rest[close..];
    }
    out + rest
}

fn tag(text: &str, base: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find('=') {
        let name = rest[..at].trim_end().rsplit(|c: char| c.is_whitespace() || "\"'/".contains(c)).next().unwrap_or_default();
        let value = rest[at + 1..].trim_start();
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
        let start = rest.len() - value.len() + usize::from(quote.is_some());
        let value = &rest[start..];
        out.push_str(&rest[..start]);
        if value.starts_with('/') && !value.starts_with("//") && ADDRESSES.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            out.push_str(base);
        }
        let end = quote.map_or_else(|| value.find([' ', '>']), |quote| value.find(quote).map(|at| at + 1)).unwrap_or(value.len());
        out.push_str(&value[..end]);
        rest = &value[end..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests;
