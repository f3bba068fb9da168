use super::*;

fn check(accept: &str, shapes: &[Shape], expected: Option<(Format, Shape)>) {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, accept.parse().unwrap());
    let seen = wanted(&headers, &Query::default(), shapes).ok().map(|wanted| (wanted.format, wanted.shape));
    assert_eq!(seen, expected, "{accept}");
}

#[test]
fn the_first_clause_that_can_be_met_is_chosen() {
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
    check(table, &[Shape::Table], Some((Format::Json, Shape::Table)));
    check(table, &[], Some((Format::Json, Shape::Whole)));
    check("application/json;as=Table;v=v1;g=meta.k8s.io", &[], None);
    check("application/vnd.kubernetes.protobuf,application/json", &[], Some((Format::Json, Shape::Whole)));
    check("application/vnd.kubernetes.protobuf", &[], Some((Format::Protobuf, Shape::Whole)));
    check("application/vnd.kubernetes.protobuf;stream=watch", &[], Some((Format::Protobuf, Shape::Whole)));
    let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    check(metadata, &[Shape::Metadata], Some((Format::Protobuf, Shape::Metadata)));
    check(&format!("{metadata},application/json"), &[Shape::Metadata], Some((Format::Protobuf, Shape::Metadata)));
    check(metadata, &[Shape::MetadataList], None);
    check("application/yaml", &[], Some((Format::Yaml, Shape::Whole)));
    check("text/html, */*;q=0.1", &[], Some((Format::Json, Shape::Whole)));
    check("application/json;q=0", &[], None);
    check(
        "application/json;as=APIGroupDiscoveryList;g=apidiscovery.k8s.io;v=v2",
        &[Shape::Discovery],
        Some((Format::Json, Shape::Discovery)),
    );
    check("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList", &[Shape::Discovery], None);
}

#[test]
fn no_accept_header_means_json() {
    assert_eq!(wanted(&HeaderMap::new(), &Query::default(), &[]).unwrap(), Wanted::JSON);
}
