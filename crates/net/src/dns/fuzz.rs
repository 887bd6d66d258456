//! Answers of servers, almost right. How to run these for longer, and a failure again: see the
//! crate `fuzz`.

use fuzz::{Verdict, fuzz, mutate, mutate_text};
use simple_dns::rdata::{A, CNAME, PTR, RData, SRV, TXT};
use simple_dns::{CLASS, Name, Packet, PacketFlag, RCODE, ResourceRecord};

use super::message::{Answer, Question, RECORDS_MAX, Records};
use super::settings::Settings;

const HOSTS: [&str; 5] = ["a.example.com", "b", "", "with space", "_x-1.example.com"];

#[test]
fn answers_are_read_or_refused() {
    fuzz("DNS answers", |u| {
        let of_services = Question::services("_etcd-server._tcp.example.com");
        let of_address = Question::pointer("10.1.2.3".parse().expect("an address"));
        let is_service = u.ratio(2_u8, 3)?;
        let question = if is_service { of_services } else { of_address }.expect("a name");
        let number = u.arbitrary()?;
        let asked = question.message(number);
        let asked = Packet::parse(&asked).expect("a question");
        let mut reply = Packet::new_reply(number);
        reply.questions.clone_from(&asked.questions);
        for _ in 0..u.int_in_range(0..=6)? {
            let host = Name::new_unchecked(u.choose(&HOSTS)?);
            let data = match u.int_in_range(0..=5)? {
                0 => RData::A(A { address: u.arbitrary()? }),
                1 => RData::CNAME(CNAME(host)),
                2 => RData::TXT(TXT::new().with_string("x").expect("short")),
                _ if !is_service => RData::PTR(PTR(host)),
                _ => RData::SRV(SRV {
                    priority: u.arbitrary()?,
                    weight: u.arbitrary()?,
                    port: u.arbitrary()?,
                    target: host,
                }),
            };
            let name = asked.questions[0].qname.clone();
            let record = ResourceRecord::new(name, CLASS::IN, u.arbitrary()?, data);
            let sections =
                [&mut reply.answers, &mut reply.name_servers, &mut reply.additional_records];
            let at = usize::from(u.ratio(1_u8, 5)?) * u.int_in_range(0..=2_usize)?;
            sections.into_iter().nth(at).expect("one of three").push(record);
        }
        if u.ratio(1_u8, 8)? {
            *reply.rcode_mut() = RCODE::from(u.int_in_range(0..=15_u16)?);
        }
        if u.ratio(1_u8, 10)? {
            reply.set_flags(PacketFlag::TRUNCATION);
        }
        let mut bytes = reply.build_bytes_vec_compressed().expect("a message");
        if u.arbitrary()? {
            mutate(u, &mut bytes)?;
        }
        let answer = question.read(number, &bytes);
        if let Some(Answer::Records(records)) = &answer {
            let hosts: Vec<_> = match records {
                Records::Services(services) if is_service => {
                    services.iter().map(|srv| format!("{}:{}", srv.host, srv.port)).collect()
                }
                Records::Names(names) if !is_service => names.clone(),
                other => panic!("not asked for: {other:?}"),
            };
            assert!(!hosts.is_empty() && hosts.len() <= RECORDS_MAX);
            for host in hosts {
                let text = format!("http://{}:1", host.split(':').next().expect("one"));
                assert!(crate::Url::parse(&text).is_ok(), "{text}");
            }
            return Ok(Verdict::Taken);
        }
        Ok(Verdict::Refused)
    });
}

#[test]
fn settings_of_the_system_are_bounded() {
    fuzz("resolv.conf", |u| {
        let text = "# c\nnameserver 10.0.0.1\nnameserver ::1\nsearch a.b c.d\n\
                    options ndots:3 timeout:2 attempts:9\n";
        let settings = Settings::parse(&mutate_text(u, text)?);
        assert!((1..=3).contains(&settings.servers.len()));
        assert!(settings.search.len() <= 6 && settings.ndots <= 15);
        assert!((1..=30).contains(&settings.timeout.as_secs()));
        assert!((1..=5).contains(&settings.attempts));
        let is_default = settings.servers == Settings::default().servers;
        Ok(if is_default { Verdict::Refused } else { Verdict::Taken })
    });
}
