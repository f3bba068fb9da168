use super::*;

fn check_says(frames: &[u8], expected: Result<usize, FaultKind>) {
    assert_eq!(check(frames, PUMP_BYTES_MAX).map_err(|(kind, _)| kind), expected, "{frames:?}");
}

#[test]
fn frames_are_whole_messages_within_limits() {
    let empty_message = [0u8; 8];
    let one_word = [[0, 0, 0, 0, 1, 0, 0, 0], [0; 8]].concat();
    check_says(&[], Ok(0));
    check_says(&empty_message, Ok(1));
    check_says(&[one_word.clone(), one_word.clone()].concat(), Ok(2));
    check_says(&one_word[..12], Err(FaultKind::BadFrame));
    check_says(&one_word[..6], Err(FaultKind::BadFrame));
    check_says(&[0xff; 64], Err(FaultKind::BadFrame));
    check_says(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f], Err(FaultKind::BadFrame));
    check_says(&empty_message.repeat(PUMP_MESSAGES_MAX + 1), Err(FaultKind::Misuse));
    assert!(check(&[[0, 0, 0, 0, 9, 0, 0, 0].as_slice(), &[0; 72]].concat(), 64).is_err(), "a limit of one's own");
    check_says(&vec![0; PUMP_BYTES_MAX + 8], Err(FaultKind::BadFrame));
}
