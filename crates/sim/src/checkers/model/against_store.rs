//! The model beside the store: two readings of one description, which must agree.

use std::path::Path;

use base::{Moment, Rng};
use prost::Message;
use proto::etcdserverpb::{RangeResponse, ResponseHeader};
use proto::mvccpb::KeyValue;
use storage::bolt::{Database, Options};
use storage::disk::Faulty;
use store::{
    ApplyError, Counts, ReadError, Response, Store, StoreOptions, TxnError, View, read_txn,
};

use super::fixtures::{Builder, Space, ms};
use super::{agrees, is_read};
use crate::history::Call;

fn error(error: ReadError) -> ApplyError {
    match error {
        ReadError::Compacted => ApplyError::Compacted,
        ReadError::FutureRevision => ApplyError::FutureRevision,
        ReadError::Damaged(damage) => panic!("{damage}"),
    }
}

fn ask(view: &View, call: &Call) -> Result<Response, ApplyError> {
    match call {
        Call::Range(request) => {
            let mut kvs = Vec::new();
            let mut sink = |row: &[u8]| kvs.push(KeyValue::decode(row).expect("a row"));
            let summary = view.range(request, &mut sink).map_err(error)?;
            let revision = view.revision().get();
            let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
            let (more, count) = (summary.more, summary.count);
            Ok(Response::Range(RangeResponse { header, kvs, more, count }))
        }
        Call::Txn(request) => match read_txn(view, request, &mut Counts::default()) {
            Ok(response) => Ok(Response::Txn(response)),
            Err(TxnError::Refused(refused)) => Err(refused),
            Err(TxnError::Read(failed)) => Err(error(failed)),
        },
        call => panic!("{call:?} is no read"),
    }
}

#[test]
fn the_model_agrees_with_the_store_on_random_calls() {
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let database =
            Database::open(&Faulty::new(1), Path::new("db"), Options::default()).unwrap();
        let options = StoreOptions::default();
        let mut store = Store::open(database.view(), options, Moment::default()).unwrap();
        let space = Space { keys: 2 + rng.below(10), leases: 4 };
        let mut builder = Builder::new();
        for number in 0..600 {
            let call = space.call(&mut rng, &builder.model);
            let (predicted, seen) = if is_read(&call) {
                (builder.model.clone().apply(&call), ask(&store.handle().view(), &call))
            } else {
                let id = builder.commit(ms(0), &call);
                let (_, entry) = builder.history.log.entries.last_key_value().unwrap();
                let applied = store.apply(entry, Moment::default()).unwrap();
                (builder.outcome(id), applied.result)
            };
            let seen = seen.as_ref().map_err(|error| *error);
            assert!(
                agrees(&predicted, seen),
                "seed {seed}, call {number}: {call:?}: {predicted:?} != {seen:?}"
            );
            if rng.one_in(3) {
                store.compact_slice().unwrap();
            }
        }
        assert!(builder.model.revision().get() > 100);
    }
}
