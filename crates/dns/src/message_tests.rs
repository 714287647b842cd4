use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn query(text: &str, edns: Option<u16>) -> Query {
    let mut query = Query::new(7, &name(text), rtype::A);
    query.edns = edns.map(|udp_size| Edns { udp_size, version: 0, dnssec_ok: false });
    query
}

#[test]
fn a_query_reads_back_with_its_case() {
    let mut bytes = query("web.default.svc.cluster.local", Some(4096)).encode(9);
    bytes[13..16].copy_from_slice(b"WeB");
    let read = parse_query(&bytes).unwrap();
    assert_eq!((read.id, read.qtype, read.qclass), (9, rtype::A, CLASS_IN));
    assert_eq!(read.name(), name("web.default.svc.cluster.local").as_wire());
    assert_eq!(&read.original_name()[1..4], b"WeB");
    assert_eq!(read.udp_limit(), MAX_UDP);
    let answer = encode(&read, &Answer::default(), true, 512);
    assert_eq!(&answer[13..16], b"WeB");
    assert_eq!(answer[2..4], (bits::QR | bits::RD | bits::RA).to_be_bytes());
    assert_eq!(answer[11], 1, "EDNS is answered with EDNS");
}

#[test]
fn what_is_no_query_is_dropped_or_refused() {
    let good = query("a.b", None).encode(1);
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        parse_query(&bytes).map(|_| ()).map_err(|unusable| match unusable {
            Unusable::Drop => None,
            Unusable::Answer(bytes) => Some(bytes[3] & 15),
        })
    };
    assert_eq!(with(0, 0), Ok(()));
    assert_eq!(with(2, 0x80), Err(None), "an answer");
    assert_eq!(with(2, 0x20), Err(Some(rcode::NOTIMP)));
    assert_eq!(with(5, 2), Err(Some(rcode::FORMERR)), "two questions");
    assert_eq!(with(12, 0xc0), Err(Some(rcode::FORMERR)), "a pointer");
    assert_eq!(with(12, 60), Err(Some(rcode::FORMERR)), "a label behind the end");
    assert_eq!(with(11, 1), Err(Some(rcode::FORMERR)), "a record that is not there");
    assert!(matches!(parse_query(&good[..5]), Err(Unusable::Drop)));
}

fn address(i: u8) -> Record {
    Record { owner: Owner::Question, ttl: 30, data: RData::Ip([10, 0, 0, i].into()) }
}

#[test]
fn names_are_compressed() {
    let query = query("_http._tcp.web.default.svc.cluster.local", None);
    let web = name("web.default.svc.cluster.local");
    let answer = Answer {
        answers: vec![Record {
            owner: Owner::Question,
            ttl: 30,
            data: RData::Srv { priority: 0, weight: 100, port: 80, target: web.clone() },
        }],
        additional: vec![Record { owner: Owner::Name(web.clone()), ttl: 30, data: RData::Ip([10, 0, 0, 1].into()) }],
        ..Answer::default()
    };
    let bytes = encode(&query, &answer, false, 512);
    let question = HEADER_LEN + query.name().len() + 4;
    // The additional record's name is a pointer to `web` in the question, behind `_http._tcp`.
    assert_eq!(bytes.len(), question + 2 + 10 + 6 + web.as_wire().len() + 2 + 10 + 4);
    let first = read_record(&bytes, question).unwrap();
    assert_eq!((first.kind, first.ttl), (rtype::SRV, 30));
    let second = read_record(&bytes, first.end).unwrap();
    assert_eq!((second.kind, second.end), (rtype::A, bytes.len()));
    assert_eq!(bytes[first.end..first.end + 2], (0xc000 | (HEADER_LEN as u16 + 11)).to_be_bytes());
}

#[test]
fn what_does_not_fit_is_cut_and_said() {
    let answer = Answer { answers: (0..60).map(address).collect(), ..Answer::default() };
    for (edns, limit) in [(None, 512), (Some(1000), 1000), (Some(4096), MAX_UDP), (Some(100), 512)] {
        let query = query("a.b", edns);
        assert_eq!(query.udp_limit(), limit);
        let bytes = encode(&query, &answer, false, query.udp_limit());
        assert!(bytes.len() <= limit);
        let count = u16::from_be_bytes([bytes[6], bytes[7]]);
        let all = count == 60;
        assert_eq!(bytes[2] & (bits::TC >> 8) as u8 == 0, all, "{count}");
        assert!(all || bytes.len() + 16 > limit, "as many as fit");
    }
    let bytes = encode(&query("a.b", None), &answer, false, 65535);
    assert_eq!(bytes[7], 60);
    let extra = Answer { additional: (0..60).map(address).collect(), ..Answer::default() };
    assert_eq!(encode(&query("a.b", None), &extra, false, 512)[2] & 2, 0, "missing extras are no truncation");
}

#[test]
fn an_unknown_edns_version_is_told() {
    let bytes = bad_version(&query("a.b", Some(512)));
    let opt = read_record(&bytes, HEADER_LEN + 5 + 4).unwrap();
    assert_eq!((opt.kind, opt.ttl >> 24, opt.end), (rtype::OPT, 1, bytes.len()));
}

#[test]
fn another_servers_answer_is_understood() {
    let query = query("Alias.test", None);
    let answer = Answer {
        answers: vec![
            Record { owner: Owner::Question, ttl: 60, data: RData::Cname(name("real.test")) },
            Record { owner: Owner::Name(name("real.test")), ttl: 61, data: RData::Ip([10, 0, 0, 1].into()) },
        ],
        ..Answer::default()
    };
    let bytes = encode(&query, &answer, true, 512);
    assert!(answers(&bytes, &query, query.id));
    assert!(!answers(&bytes, &query, query.id + 1));
    assert!(!answers(&bytes, &Query::new(query.id, &name("other.test"), rtype::A), query.id));
    let records = address_records(&bytes);
    assert_eq!(records[0].owner, Owner::Name(name("alias.test")));
    assert_eq!(records[1], answer.answers[1]);
    let mut cut = bytes.clone();
    truncate(&mut cut, 20);
    assert_eq!((cut.len(), cut[2] & 2, cut[7]), (HEADER_LEN + 12 + 4, 2, 0));
    // A pointer to itself ends the walk.
    assert_eq!(read_name(&[0xc0, 0], 0), None);
}

proptest! {
    #[test]
    fn any_bytes_are_handled(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(query) = parse_query(&bytes) {
            let answer = encode(&query, &Answer { answers: vec![address(1)], ..Answer::default() }, true, query.udp_limit());
            prop_assert!(answer.len() <= query.udp_limit());
        }
        let _ = read_record(&bytes, 0);
        let _ = read_name(&bytes, 0);
        let _ = address_records(&bytes);
        truncate(&mut bytes.clone(), 20);
    }

    #[test]
    fn nearly_right_queries_are_handled(at in 0usize..60, value in any::<u8>(), edns in any::<bool>()) {
        let mut bytes = query("web.default.svc.cluster.local", edns.then_some(1232)).encode(1);
        let at = at % bytes.len();
        bytes[at] = value;
        if let Ok(query) = parse_query(&bytes) {
            prop_assert!(query.name().len() <= MAX_LEN);
        }
    }
}
