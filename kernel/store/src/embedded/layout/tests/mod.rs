use super::*;

const STAMP: Stamp = Stamp { revision: Revision(0x0102), index: 7, create_revision: Revision(3), version: u64::MAX };

#[test]
fn stamp_state_and_record_survive_the_round_trip() {
    assert_eq!(Stamp::decode(&STAMP.encode()), STAMP);
    let state = State { revision: Revision(9), compacted: Revision(4), cleaned: Revision(2) };
    assert_eq!(State::decode(&state.encode()), Some(state));
    for prev in [None, Some(STAMP)] {
        for kind in [Kind::Put, Kind::Delete] {
            let mut bytes = vec![0xff];
            let record = Record { kind, prev, key: b"/pods/a" };
            record.encode(&mut bytes);
            assert_eq!(Record::decode(&bytes), Some(record));
        }
    }
}

#[test]
fn bytes_that_cannot_be_a_record_or_a_state_are_refused() {
    for bytes in [&b""[..], b"\x01", b"\x03\x00key", b"\x01\x02key", b"\x01\x01short"] {
        assert_eq!(Record::decode(bytes), None, "{bytes:?}");
    }
    let backwards = State { revision: Revision(1), compacted: Revision(4), cleaned: Revision(1) };
    assert_eq!(State::decode(&backwards.encode()), None);
    assert_eq!(State::decode(b"short"), None);
}

#[test]
fn slots_sort_as_time_does() {
    assert!(slot(Revision(1), u32::MAX) < slot(Revision(2), 0));
    assert!(slot(Revision(255), 0) < slot(Revision(256), 0));
    assert_eq!(slot_revision(&slot(Revision(77), 5)), Revision(77));
    assert_eq!(slot_index(&slot(Revision(77), 5)), 5);
}
