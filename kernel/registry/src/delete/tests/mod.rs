use super::*;

fn check(have: &[&str], propagation: Option<Propagation>, expected: &[&str]) {
    let have: Vec<Box<str>> = have.iter().map(|finalizer| Box::from(*finalizer)).collect();
    assert_eq!(finalizers_after(&have, propagation), expected);
}

#[test]
fn propagation_decides_which_collector_finalizer_an_object_has() {
    check(&["a"], None, &["a"]);
    check(&["a", ORPHAN], None, &["a", ORPHAN]);
    check(&["a", ORPHAN], Some(Propagation::Background), &["a"]);
    check(&["a", ORPHAN], Some(Propagation::Foreground), &["a", FOREGROUND]);
    check(&[FOREGROUND], Some(Propagation::Orphan), &[ORPHAN]);
}
