//! A share of the processor, kept.

use super::*;

#[test]
fn what_is_used_beyond_the_share_is_waited_for() {
    let share = CpuShare::default();
    share.spend(Duration::from_secs(100));
    assert_eq!((share.debt(), share.used()), (None, Duration::from_secs(100)), "nothing holds it");
    share.hold_to(500);
    share.spend(Duration::from_millis(1));
    assert_eq!(share.debt(), None, "a burst is free");
    share.spend(Duration::from_secs(5));
    let debt = share.debt().expect("five seconds at half a processor");
    assert!(debt > Duration::from_secs(5) && debt <= Duration::from_secs(10), "{debt:?}");
    share.spend(Duration::from_secs(500));
    assert!(share.debt().expect("still") <= CPU_DEBT_MAX);
    assert_eq!(share.throttled(), 2);
    share.hold_to(u32::MAX);
    assert_eq!(share.debt(), None, "who is let go owes nothing");
}
