use super::*;

#[test]
fn warnings_are_quoted_and_not_repeated() {
    let mut headers = HeaderMap::new();
    let warnings = ["unknown field \"spec.x\"", "unknown field \"spec.x\"", "a\nb"].map(str::to_owned);
    add_warnings(&mut headers, &warnings);
    let seen: Vec<&str> = headers.get_all(WARNING).iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(seen, [r#"299 - "unknown field \"spec.x\"""#, r#"299 - "ab""#]);
}
