use super::*;

#[test]
fn counts_and_buckets_add_up() {
    let metrics = Metrics::default();
    metrics.observe("get", "pods", 200, Some(Duration::from_millis(10)));
    metrics.observe("get", "pods", 404, Some(Duration::from_secs(500)));
    metrics.observe("watch", "pods", 200, None);
    let sample = Metric { name: "x_bytes", kind: "gauge", help: "An x.", labels: vec![("m", "a\"b".into())], value: 1.5 };
    let text = metrics.text(&[sample]);
    for line in [
        r#"apiserver_request_total{verb="get",resource="pods",code="404"} 1"#,
        r#"apiserver_request_duration_seconds_bucket{verb="get",resource="pods",le="0.025"} 1"#,
        r#"apiserver_request_duration_seconds_bucket{verb="get",resource="pods",le="+Inf"} 2"#,
        r#"x_bytes{m="a\"b"} 1.5"#,
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
