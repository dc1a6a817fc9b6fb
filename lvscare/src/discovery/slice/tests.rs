//! Real responses, and streams split at any byte.

use proptest::prelude::*;

use super::*;

/// As kube-apiserver 1.20 writes it, shortened.
const SLICE: &str = r#"{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1beta1","metadata":{"name":"kubernetes","namespace":"default","resourceVersion":"42"},"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":true}},{"addresses":["10.0.0.2"],"conditions":{"ready":true}}],"ports":[{"name":"https","protocol":"TCP","port":6443}]}"#;

fn two() -> Vec<SocketAddr> {
    ["10.0.0.1:6443", "10.0.0.2:6443"]
        .map(|text| text.parse().unwrap())
        .to_vec()
}

#[test]
fn a_list_of_slices_is_read() {
    let body = format!(
        r#"{{"kind":"EndpointSliceList","metadata":{{"resourceVersion":"57"}},"items":[{SLICE}]}}"#
    );
    let expected = Listed {
        servers: two(),
        version: "57".to_owned(),
    };
    assert_eq!(list(body.as_bytes()).unwrap(), expected);
    let empty = list(br#"{"metadata":{},"items":null}"#).unwrap();
    assert_eq!(empty.servers, []);
}

#[test]
fn endpoints_are_read_whether_ready_or_not() {
    let body = br#"{"kind":"Endpoints","subsets":[{"addresses":[{"ip":"10.0.0.1"}],"notReadyAddresses":[{"ip":"10.0.0.2"}],"ports":[{"name":"other","port":1},{"name":"https","port":6443}]}]}"#;
    assert_eq!(endpoints(body).unwrap(), two());
    assert_eq!(endpoints(br#"{"kind":"Endpoints"}"#).unwrap(), []);
}

#[test]
fn events_are_told_apart() {
    for kind in ["ADDED", "MODIFIED"] {
        let line = format!(r#"{{"type":"{kind}","object":{SLICE}}}"#);
        assert_eq!(
            event(line.as_bytes()).unwrap(),
            Event::Servers(two()),
            "{kind}"
        );
    }
    for kind in ["DELETED", "BOOKMARK", "SOMETHING_NEW"] {
        let line = format!(r#"{{"type":"{kind}","object":{SLICE}}}"#);
        assert_eq!(event(line.as_bytes()).unwrap(), Event::Nothing, "{kind}");
    }
    let old = br#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old resource version"}}"#;
    assert_eq!(event(old).unwrap(), Event::Expired);
    let other =
        br#"{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcd is away"}}"#;
    let error = event(other).unwrap_err().to_string();
    assert!(error.contains("etcd is away (500)"), "{error}");
    assert!(event(b"{").is_err() && event(b"null").is_err());
}

#[test]
fn invalid_addresses_and_slices_without_port_are_skipped() {
    let names = br#"{"items":[{"endpoints":[{"addresses":["a.example"]}],"ports":[{"port":1}]}]}"#;
    assert_eq!(list(names).unwrap().servers, []);
    let portless = br#"{"items":[{"endpoints":[{"addresses":["10.0.0.1"]}],"ports":[]}]}"#;
    assert_eq!(list(portless).unwrap().servers, []);
}

#[test]
fn an_endless_line_is_an_error() {
    let mut lines = Lines::default();
    lines.push(&vec![b'x'; LONGEST]).unwrap();
    assert!(lines.push(b"x").is_err());
}

proptest! {
    #[test]
    fn lines_are_the_same_however_the_stream_is_cut(
        texts in proptest::collection::vec("[a-z{}\" ]{0,40}", 0..20),
        cuts in proptest::collection::vec(1usize..30, 1..40),
    ) {
        let stream = texts.iter().map(|text| format!("{text}\n")).collect::<String>() + "unfinished";
        let (mut rest, mut found, mut lines) = (stream.as_bytes(), Vec::new(), Lines::default());
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            lines.push(now).unwrap();
            while let Some(line) = lines.take() {
                found.push(String::from_utf8(line).unwrap());
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let expected: Vec<_> = texts.iter().filter(|text| !text.trim().is_empty()).cloned().collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_bytes_are_fatal(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (event(&bytes), list(&bytes), endpoints(&bytes));
    }
}
