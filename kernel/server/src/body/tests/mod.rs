use super::*;
use std::io::Read as _;

fn list(items: usize) -> ListBody {
    let items = (0..items).map(|n| Bytes::from(format!("\"n\":{n}}}"))).collect();
    ListBody::new(Bytes::from_static(b"{\"items\":["), items, b"{", Bytes::from_static(b"]}"))
}

fn drain(mut list: ListBody) -> Vec<u8> {
    std::iter::from_fn(|| list.next()).flatten().collect()
}

#[test]
fn a_list_has_the_length_it_says_and_is_json() {
    for items in [0, 1, 2, 50_000] {
        let said = list(items).length.unwrap();
        let bytes = drain(list(items));
        assert_eq!(bytes.len() as u64, said);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["items"].as_array().unwrap().len(), items);
    }
}

#[test]
fn a_gzipped_list_unzips_to_the_list() {
    let Body::List(zipped) = Body::List(list(50_000)).gzipped() else { panic!() };
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&drain(zipped)[..]).read_to_end(&mut plain).unwrap();
    assert_eq!(plain, drain(list(50_000)));
}

#[test]
fn a_list_whose_items_are_made_as_they_are_sent_is_the_same_list() {
    for items in [0, 1, 50_000] {
        let texts = (0..items).map(|n| Bytes::from(format!("{{\"n\":{n}}}")));
        let made = ListBody::made(Bytes::from_static(b"{\"items\":["), texts, Bytes::from_static(b"]}"));
        assert_eq!(made.length, None);
        assert!(drain(made) == drain(list(items)), "{items} items");
    }
}
