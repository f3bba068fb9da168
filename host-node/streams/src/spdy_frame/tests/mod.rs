use super::*;

fn read(reader: &mut Reader, frame: &[u8]) -> Result<Control, BadFrame> {
    let (start, payload) = frame.split_at(HEAD_BYTES);
    match head(start.try_into().unwrap())? {
        Head::Control { kind, flags, length } => {
            assert_eq!(length, payload.len());
            reader.control(kind, flags, payload)
        }
        Head::Data { .. } => panic!("not a control frame"),
    }
}

#[test]
fn the_dictionary_is_the_drafts() {
    let dictionary = dictionary();
    assert_eq!(dictionary.len(), 1423);
    // Adler-32 of the dictionary, as zlib streams name it.
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in dictionary {
        a = (a + u32::from(byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    assert_eq!(b << 16 | a, 0xe3c6_a7c2);
}

#[test]
fn headers_of_successive_streams_share_one_compression() {
    let (mut writer, mut reader) = (Writer::new(), Reader::new());
    for id in [1, 3, 5] {
        let frame = writer.syn_stream(id, false, &[("streamtype", "stdout"), ("port", "80")]).unwrap();
        let headers = vec![("streamtype".to_owned(), "stdout".to_owned()), ("port".to_owned(), "80".to_owned())];
        assert_eq!(read(&mut reader, &frame).unwrap(), Control::SynStream { id, fin: false, headers });
    }
    let reply = writer.syn_reply(7, &[]).unwrap();
    assert_eq!(read(&mut reader, &reply).unwrap(), Control::SynReply { id: 7, fin: false, headers: vec![] });
}

#[test]
fn plain_frames_are_read_back() {
    let mut reader = Reader::new();
    assert_eq!(read(&mut reader, &ping(9)).unwrap(), Control::Ping { id: 9 });
    assert_eq!(read(&mut reader, &rst_stream(5, 3)).unwrap(), Control::RstStream { id: 5 });
    assert_eq!(read(&mut reader, &go_away(5)).unwrap(), Control::GoAway);
    assert_eq!(head(data_head(7, true, 70_000)).unwrap(), Head::Data { id: 7, fin: true, length: 70_000 });
}

#[test]
fn hostile_frames_are_refused() {
    let mut reader = Reader::new();
    assert!(head([0x80, 2, 0, 1, 0, 0, 0, 0]).is_err(), "version 2");
    assert!(head([0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]).is_err(), "16 MiB of control frame");
    assert!(reader.control(1, 0, &[0; 9]).is_err(), "short");
    assert!(reader.control(1, 0, &[0; 40]).is_err(), "no zlib");
}

#[test]
fn a_header_block_that_inflates_without_end_is_refused() {
    let mut deflate = Compress::new(Compression::best(), true);
    deflate.set_dictionary(&dictionary()).unwrap();
    let zeros = vec![0; 10 * HEADERS_BYTES_MAX];
    let mut bomb = Vec::with_capacity(CONTROL_BYTES_MAX);
    deflate.compress_vec(&zeros, &mut bomb, FlushCompress::Sync).unwrap();
    let mut payload = vec![0; 10];
    payload.extend_from_slice(&bomb);
    assert_eq!(Reader::new().control(1, 0, &payload), Err(BadFrame("headers too large")));
}
