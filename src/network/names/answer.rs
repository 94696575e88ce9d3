//! One question, one answer. Pure.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::{Names, View};

/// The largest answer by UDP when the question does not say (RFC 1035).
const PLAIN: usize = 512;
/// The largest answer by UDP that we give or ask for: no loopback or bridge
/// cuts it (RFC 6891 suggests 4096).
const LARGEST: usize = 4096;
/// The largest answer by TCP.
const STREAM: usize = u16::MAX as usize;
/// Bytes of a name that was in the question already, type, class, TTL, length.
const REFERENCE: usize = 12;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Udp,
    Tcp,
}

/// What is to be done about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Send this.
    Reply(Vec<u8>),
    /// Ask outside.
    Forward,
    /// Nothing: it is not a question.
    Ignore,
}

/// Answers a packet, whatever is in it.
pub(super) fn answer(packet: &[u8], way: Way, names: &Names, view: &View) -> Outcome {
    let Some(flags) = packet.get(2).filter(|_| packet.len() >= 12) else {
        return Outcome::Ignore;
    };
    if flags & 0x80 != 0 {
        // An answer; answering it might go on for ever.
        return Outcome::Ignore;
    }
    let Ok(question) = Message::from_vec(packet) else {
        return failure(packet, ResponseCode::FormErr);
    };
    if question.metadata.op_code != OpCode::Query {
        return failure(packet, ResponseCode::NotImp);
    }
    let [query] = question.queries.as_slice() else {
        return failure(packet, ResponseCode::FormErr);
    };
    let found = match query.query_class() {
        DNSClass::IN => look_up(query, names, view),
        _ => None,
    };
    match found {
        Some(records) => reply(&question, query, way, ResponseCode::NoError, records, view),
        None if view.forward => Outcome::Forward,
        None => reply(&question, query, way, ResponseCode::NXDomain, Vec::new(), view),
    }
}

/// Our records for a question; `None` when the name is not ours.
fn look_up(query: &Query, names: &Names, view: &View) -> Option<Vec<RData>> {
    let name = query.name();
    if query.query_type() == RecordType::PTR {
        let host = name.parse_arpa_name().ok()?;
        if host.prefix_len() != host.max_prefix_len() {
            return None;
        }
        let found = names.look_up_address(view, host.addr())?;
        let mut target = Name::from_ascii(&found).ok()?;
        target.set_fqdn(true);
        return Some(vec![RData::PTR(PTR(target))]);
    }
    let addresses = names.look_up(view, &key(name)?)?;
    let wanted = query.query_type();
    Some(
        addresses
            .into_iter()
            .filter_map(|address| match address {
                IpAddr::V4(address) if matches!(wanted, RecordType::A | RecordType::ANY) => {
                    Some(RData::A(A(address)))
                }
                IpAddr::V6(address) if matches!(wanted, RecordType::AAAA | RecordType::ANY) => {
                    Some(RData::AAAA(AAAA(address)))
                }
                _ => None,
            })
            .collect(),
    )
}

/// A name as the table has it: lower case, no final dot. `None` when it has
/// parts that no name of ours has.
fn key(name: &Name) -> Option<String> {
    let mut key = String::new();
    for label in name.iter() {
        if !key.is_empty() {
            key.push('.');
        }
        for byte in label {
            if !byte.is_ascii_graphic() || matches!(byte, b'.' | b'\\') {
                return None;
            }
            key.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    (!key.is_empty()).then_some(key)
}

/// An answer in our own name, as long as it may be: what does not fit is left
/// out, and said to be.
fn reply(
    question: &Message,
    query: &Query,
    way: Way,
    code: ResponseCode,
    records: Vec<RData>,
    view: &View,
) -> Outcome {
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = view.forward;
    answer.metadata.checking_disabled = question.metadata.checking_disabled;
    answer.metadata.response_code = code;
    answer.add_query(query.clone());
    let limit = match (way, &question.edns) {
        (Way::Tcp, _) => STREAM,
        (Way::Udp, None) => PLAIN,
        (Way::Udp, Some(edns)) => usize::from(edns.max_payload()).clamp(PLAIN, LARGEST),
    };
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST as u16);
        answer.set_edns(edns);
    }
    let Ok(empty) = answer.to_vec() else {
        return Outcome::Ignore;
    };
    let mut room = limit.saturating_sub(empty.len());
    for data in records {
        let size = REFERENCE
            + match &data {
                RData::A(_) => 4,
                RData::AAAA(_) => 16,
                RData::PTR(name) => name.0.len() + 1,
                _ => PLAIN,
            };
        if size > room {
            answer.metadata.truncation = true;
            break;
        }
        room -= size;
        answer.add_answer(Record::from_rdata(query.name().clone(), 0, data));
    }
    answer.to_vec().map_or(Outcome::Ignore, Outcome::Reply)
}

/// An error without a question, to whatever the packet was.
fn failure(packet: &[u8], code: ResponseCode) -> Outcome {
    error(packet, code).map_or(Outcome::Ignore, Outcome::Reply)
}

/// An error that answers a packet; keeps the question when it can be read.
pub(super) fn error(packet: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes(packet.get(..2)?.try_into().ok()?);
    let mut answer = Message::error_msg(id, OpCode::Query, code);
    if let Ok(question) = Message::from_vec(packet) {
        answer.metadata.op_code = question.metadata.op_code;
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.add_queries(question.queries.into_iter().take(1));
    }
    answer.to_vec().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A question as a resolver writes it.
    pub(in super::super) fn question(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 0x1234;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    fn table(replicas: u8) -> (Names, View) {
        let names = Names::new();
        names.set_network("n1", "shop_front");
        for number in 0..replicas {
            let list = ["web".to_owned(), "shop-web".to_owned()];
            let bad = names.attach("n1", &format!("c{number}"), &list, &[[10, 0, 1, number].into()]);
            assert!(bad.is_empty());
        }
        let view = View {
            networks: vec!["n1".to_owned()],
            forward: true,
            ..View::default()
        };
        (names, view)
    }

    fn ask(packet: &[u8], way: Way, names: &Names, view: &View) -> Message {
        match answer(packet, way, names, view) {
            Outcome::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_has_its_address_and_no_other_kind() {
        let (names, view) = table(1);
        for name in ["web.", "WEB.", "Web.Shop_Front."] {
            let reply = ask(&question(name, RecordType::A), Way::Udp, &names, &view);
            assert_eq!(reply.metadata.id, 0x1234);
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
            assert!(reply.metadata.recursion_available && reply.metadata.recursion_desired);
            let [record] = reply.answers.as_slice() else {
                panic!()
            };
            assert_eq!(record.ttl, 0);
            assert_eq!(record.data.ip_addr(), Some([10, 0, 1, 0].into()));
            assert!(
                reply.queries[0].name().eq_case(&Name::from_ascii(name).unwrap()),
                "case kept"
            );
        }
        for kind in [
            RecordType::AAAA,
            RecordType::MX,
            RecordType::TXT,
            RecordType::HTTPS,
        ] {
            let reply = ask(&question("web.", kind), Way::Udp, &names, &view);
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{kind}");
            assert!(reply.answers.is_empty(), "{kind}");
        }
        let reply = ask(
            &question("0.1.0.10.in-addr.arpa.", RecordType::PTR),
            Way::Udp,
            &names,
            &view,
        );
        assert_eq!(reply.answers[0].data.to_string(), "web.shop_front.");
    }

    #[test]
    fn other_names_are_forwarded_or_do_not_exist() {
        let (names, mut view) = table(1);
        let packets = [
            question("example.org.", RecordType::A),
            question("db.", RecordType::A),
            question("9.9.0.10.in-addr.arpa.", RecordType::PTR),
            question("0.10.in-addr.arpa.", RecordType::PTR),
            question(".", RecordType::NS),
        ];
        for packet in &packets {
            assert_eq!(answer(packet, Way::Udp, &names, &view), Outcome::Forward);
        }
        view.forward = false;
        for packet in &packets {
            let reply = ask(packet, Way::Udp, &names, &view);
            assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        }
    }

    #[test]
    fn many_addresses_fit_or_are_said_not_to() {
        let (names, view) = table(200);
        let plain = question("web.", RecordType::A);
        let reply = ask(&plain, Way::Udp, &names, &view);
        assert!(reply.metadata.truncation);
        assert_eq!(reply.answers.len(), 30);
        assert!(reply.to_vec().unwrap().len() <= 512);
        assert_eq!(ask(&plain, Way::Tcp, &names, &view).answers.len(), 200);
        let mut large = Message::from_vec(&plain).unwrap();
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        large.set_edns(edns);
        let reply = ask(&large.to_vec().unwrap(), Way::Udp, &names, &view);
        assert!(reply.edns.is_some() && reply.metadata.truncation);
        let size = reply.to_vec().unwrap().len();
        assert!(size <= 1232 && size > 1200, "{size}");
    }

    #[test]
    fn what_is_no_question_gets_an_error_or_nothing() {
        let (names, view) = table(1);
        let code = |packet: &[u8]| ask(packet, Way::Udp, &names, &view).metadata.response_code;
        let good = question("web.", RecordType::A);
        assert_eq!(answer(&good[..11], Way::Udp, &names, &view), Outcome::Ignore);
        let mut response = good.clone();
        response[2] |= 0x80;
        assert_eq!(answer(&response, Way::Udp, &names, &view), Outcome::Ignore);
        assert_eq!(code(&good[..14]), ResponseCode::FormErr);
        let mut none = good[..12].to_vec();
        none[5] = 0;
        assert_eq!(code(&none), ResponseCode::FormErr);
        let mut update = good.clone();
        update[2] |= 5 << 3;
        assert_eq!(code(&update), ResponseCode::NotImp);
    }

    proptest! {
        #[test]
        fn no_packet_does_harm(packet in prop::collection::vec(any::<u8>(), 0..600)) {
            let (names, view) = table(3);
            if let Outcome::Reply(bytes) = answer(&packet, Way::Udp, &names, &view) {
                prop_assert!(bytes.len() <= 4096 && bytes[2] & 0x80 != 0);
                prop_assert_eq!(&bytes[..2], &packet[..2]);
            }
        }

        #[test]
        fn no_damage_to_a_question_does_harm(at in 0usize..40, value in any::<u8>(), cut in 0usize..60) {
            let (names, view) = table(3);
            let mut packet = question("web.shop_front.", RecordType::A);
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
            packet.truncate(cut);
            if let Outcome::Reply(bytes) = answer(&packet, Way::Udp, &names, &view) {
                prop_assert!(bytes.len() <= 4096);
            }
        }
    }
}
