use super::rewritten;

#[test]
fn addresses_from_the_root_lead_back_through_the_proxy() {
    let check = |html: &str, expected: &str| assert_eq!(rewritten(html, "/base"), expected);
    check("<a href=\"/x\">test</a>", "<a href=\"/base/x\">test</a>");
    check("a<img alt='/y' SRC = '/i.png'/><p>", "a<img alt='/y' SRC = '/base/i.png'/><p>");
    check("<a href=/x title=\"=\">", "<a href=/base/x title=\"=\">");
    for same in ["<a href=\"//host/x\">", "<a href=\"x\">", "x = '/y' <", "<a href", "<a href=\"/"] {
        let expected = if same.ends_with("\"/") { "<a href=\"/base/" } else { same };
        check(same, expected);
    }
}
