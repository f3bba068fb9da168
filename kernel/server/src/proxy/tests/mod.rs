use super::split;

#[test]
fn a_name_may_say_a_scheme_and_a_port() {
    assert_eq!(split("web"), Some(("http", "web", "")));
    assert_eq!(split("web:8080"), Some(("http", "web", "8080")));
    assert_eq!(split("https:web"), Some(("https", "web", "")));
    assert_eq!(split("https:web:admin"), Some(("https", "web", "admin")));
    assert_eq!(split(":web:80"), Some(("http", "web", "80")));
    assert_eq!(split("a:b:c:d"), None);
}
