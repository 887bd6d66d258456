//! A store with its database, and the hand that makes entries.

use std::path::Path;
use std::sync::Arc;

use base::{LogIndex, Moment, Revision};
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, RequestHeader};
use proto::raftpb::{ConfChange, Entry, EntryType};
use storage::bolt::{Database, Options};
use storage::disk::{Disk, Faulty};
use store::{Applied, Fatal, Frozen, Shared, Store, StoreOptions, View};

/// The term of all entries.
pub(crate) const TERM: u64 = 2;

pub(crate) struct Member {
    pub disk: Arc<dyn Disk>,
    pub options: StoreOptions,
    database: Option<Database>,
    store: Option<Store>,
    frozen: Option<Frozen>,
    /// Entries since the last commit, to be applied again after a crash.
    pub log: Vec<Entry>,
    pub next: u64,
}

const PATH: &str = "db";

fn open_database(disk: &dyn Disk) -> Database {
    Database::open(disk, Path::new(PATH), Options::default()).expect("a database")
}

impl Member {
    pub(crate) fn new(options: StoreOptions) -> Self {
        Self::on(Arc::new(Faulty::new(1)), options)
    }

    /// Opens what the disk holds.
    pub(crate) fn on(disk: Arc<dyn Disk>, options: StoreOptions) -> Self {
        let database = open_database(&*disk);
        let store =
            Store::open(database.view(), options.clone(), Moment::default()).expect("opens");
        let next = store.applied().0.0 + 1;
        Self {
            disk,
            options,
            database: Some(database),
            store: Some(store),
            frozen: None,
            log: Vec::new(),
            next,
        }
    }

    /// Takes up the state that another one's database holds. There is nothing to commit to after
    /// that.
    pub(crate) fn replace(&mut self, other: &Self) -> Result<(), store::OpenError> {
        let view = other.database.as_ref().expect("open").view();
        self.store().replace(view, Moment::default())?;
        self.next = other.next;
        self.log.clear();
        Ok(())
    }

    pub(crate) fn store(&mut self) -> &mut Store {
        self.store.as_mut().expect("open")
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.store.as_ref().expect("open").handle()
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.shared().view()
    }

    pub(crate) fn entry(&mut self, kind: EntryType, data: Vec<u8>) -> Entry {
        let index = self.next;
        self.next += 1;
        let entry = Entry {
            r#type: Some(kind as i32),
            term: Some(TERM),
            index: Some(index),
            data: Some(Bytes::from(data)),
        };
        self.log.push(entry.clone());
        entry
    }

    pub(crate) fn apply(&mut self, request: InternalRaftRequest) -> Applied {
        self.try_apply(request).expect("not fatal")
    }

    pub(crate) fn try_apply(&mut self, mut request: InternalRaftRequest) -> Result<Applied, Fatal> {
        request.header = Some(RequestHeader { id: self.next, ..RequestHeader::default() });
        let entry = self.entry(EntryType::EntryNormal, request.encode_to_vec());
        self.store().apply(&entry, Moment::default())
    }

    pub(crate) fn change(&mut self, change: &ConfChange) -> Result<Applied, Fatal> {
        let entry = self.entry(EntryType::EntryConfChange, change.encode_to_vec());
        self.store().apply(&entry, Moment::default())
    }

    /// Starts a commit; its batch is not on disk yet.
    pub(crate) fn freeze(&mut self) {
        if let Some(frozen) = self.store().freeze() {
            assert!(self.frozen.replace(frozen).is_none());
        }
    }

    /// Ends the commit that was started.
    pub(crate) fn commit(&mut self) {
        let Some(frozen) = self.frozen.take() else { return };
        let database = self.database.as_mut().expect("open");
        let view = database.commit(frozen.batch).expect("commits");
        self.store().committed(view);
        self.log.retain(|entry| LogIndex(entry.index()) > frozen.upto);
    }

    /// Commits everything.
    pub(crate) fn flush(&mut self) {
        self.commit();
        self.freeze();
        self.commit();
    }

    /// Removes everything that compactions left.
    pub(crate) fn sweep(&mut self) {
        while self.store().compact_slice().expect("readable") {}
    }

    /// Forgets what is not committed, opens again and replays the log.
    pub(crate) fn crash(&mut self) {
        (self.frozen, self.store, self.database) = (None, None, None);
        let database = open_database(&*self.disk);
        let options = self.options.clone();
        let store = Store::open(database.view(), options, Moment::default()).expect("opens");
        self.database = Some(database);
        let store = self.store.insert(store);
        for entry in &self.log {
            store.apply(entry, Moment::default()).expect("applied before");
        }
        assert_eq!(store.applied().0, LogIndex(self.next - 1));
    }

    pub(crate) fn revision(&self) -> Revision {
        self.view().revision()
    }
}
