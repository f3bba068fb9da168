use super::*;

#[test]
fn quantiles_are_within_a_quarter_of_the_truth() {
    let counters = Counters::default();
    for micros in 1..=1000 {
        counters.call(Duration::from_micros(micros));
    }
    for (share, truth) in [(0.5, 500.0), (0.99, 990.0)] {
        let found = counters.quantile(share).as_micros() as f64;
        assert!((truth..truth * 1.27).contains(&found), "{share}: {found}");
    }
    assert_eq!(Counters::default().quantile(0.5), Duration::ZERO);
}
