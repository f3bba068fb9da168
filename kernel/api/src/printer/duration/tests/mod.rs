use super::human_duration;

#[test]
fn durations_grow_coarser_as_kubectl_prints_them() {
    for (seconds, expected) in [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (195, "3m15s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (11_100, "3h5m"),
        (28_800, "8h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (180_000, "2d2h"),
        (691_200, "8d"),
        (63_072_000, "2y"),
        (65_664_000, "2y30d"),
    ] {
        assert_eq!(human_duration(seconds), expected, "{seconds}");
    }
}
