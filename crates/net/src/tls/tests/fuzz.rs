//! Certificates and lists of revocations, almost right. How to run these for longer, and a failure
//! again: see the crate `fuzz`.

use fuzz::{Verdict, fuzz, mutate};
use rustls::pki_types::{CertificateDer, UnixTime};

use super::super::certificate::{self, Purpose, Subject};
use super::super::revoked;
use super::super::trust::Trust;
use super::fixture::{Shop, any, authority, key, leaf};

#[test]
fn nothing_but_the_certificate_that_was_signed_is_believed() {
    let root = authority("root");
    let signed = leaf().signed_by(&key(), &root).expect("a certificate").der().to_vec();
    let now = UnixTime::now();
    let trust = Trust::new(&[root.der().clone()], Purpose::Client, any(), now);
    fuzz("certificates", |u| {
        let mut der = signed.clone();
        if !u.ratio(1_u8, 8)? {
            mutate(u, &mut der)?;
        }
        if let Some(parsed) = certificate::parse(&der) {
            let subject = Subject::of(&parsed);
            drop(subject.mismatch("127.0.0.1"));
        }
        let leaf = CertificateDer::from(der.as_slice());
        certificate::covers(&leaf, "m.example");
        let others = [root.der().clone(), leaf.clone()];
        let verdict = Verdict::of(&trust.verify(&leaf, &others, now));
        // What was not signed is not read: it says where things are, and may say it oddly.
        let is_same = contents(&der) == contents(&signed);
        assert!(verdict == Verdict::Refused || is_same, "{der:02x?}");
        Ok(verdict)
    });
}

/// The part of a certificate that is signed.
fn contents(der: &[u8]) -> Option<&[u8]> {
    Some(certificate::sequence(certificate::sequence(der)?.0)?.0)
}

#[test]
fn an_authority_that_is_almost_right_vouches_for_nobody() {
    let root = authority("root");
    let signed = leaf().signed_by(&key(), &root).expect("a certificate").der().clone();
    let now = UnixTime::now();
    fuzz("authorities", |u| {
        let mut der = authority("other").der().to_vec();
        if u.arbitrary()? {
            der = root.der().to_vec();
            if !u.ratio(1_u8, 4)? {
                mutate(u, &mut der)?;
            }
        }
        let trust = Trust::new(&[der.into()], Purpose::Client, any(), now);
        Ok(Verdict::of(&trust.verify(&signed, &[], now)))
    });
}

#[test]
fn lists_of_revocations_are_read_or_refused() {
    let list = Shop::new().revoke(7);
    let pem = list.pem().expect("text").into_bytes();
    fuzz("revocations", |u| {
        let mut contents = if u.arbitrary()? { list.der().to_vec() } else { pem.clone() };
        if !u.ratio(1_u8, 8)? {
            mutate(u, &mut contents)?;
        }
        Ok(Verdict::of(&revoked::parse(&contents)))
    });
}
