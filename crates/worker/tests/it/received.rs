//! What is refused of a received database, before anything depends on it.

use std::path::Path;
use std::sync::Arc;

use base::LogIndex;
use storage::bolt::{self, Batch, Database};
use storage::datadir::DataDir;
use storage::disk::{Disk, Faulty, Open};
use worker::{Place, verify_received};

const AT: LogIndex = LogIndex(42);

fn place() -> (Faulty, Place) {
    let disk = Faulty::new(1);
    let shared = Arc::new(disk.clone()) as Arc<dyn Disk>;
    let place = Place { disk: shared, dir: DataDir::new("/d"), database: bolt::Options::default() };
    place.dir.create(&disk).unwrap();
    (disk, place)
}

/// The database of a member that has come to entry 42, with these rows more.
fn received(place: &Place, rows: &[(&'static str, &'static str, &'static [u8])]) -> Vec<u8> {
    let path = Path::new("/d/member/snap/other");
    let mut database = Database::open(&*place.disk, path, place.database).unwrap();
    let mut batch = Batch::default();
    for bucket in store::schema::BUCKETS {
        batch.create_bucket(bucket);
    }
    for (name, value) in store::schema::applied(AT, base::Term(3)) {
        batch.put(store::schema::META, name, value);
    }
    for (bucket, key, value) in rows {
        batch.put(bucket.as_bytes(), (*key).into(), (*value).into());
    }
    let image = database.commit(batch).unwrap().image();
    image.read_at(0, usize::MAX).unwrap().to_vec()
}

/// Why a file is refused.
fn refused(place: &Place, file: &[u8], at: LogIndex) -> String {
    let path = place.dir.snap().join("tmp1");
    let open = place.disk.open(&path, Open::Truncate).unwrap();
    open.write_all_at(file, 0).unwrap();
    drop(open);
    match verify_received(place, &path, at, (3, 7)) {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn only_a_whole_database_of_that_entry_is_taken() {
    let (disk, place) = place();
    let whole = received(&place, &[]);
    assert_eq!(refused(&place, &whole, AT), "");
    let other = refused(&place, &whole, LogIndex(41));
    assert_eq!(other, "received database: it has entry 42, the snapshot is at 41");
    // The upload broke off, anywhere.
    for len in [0, 1, 4095, 4096, whole.len() / 2, whole.len() - 1] {
        let text = refused(&place, &whole[..len], AT);
        assert!(text.starts_with("received database: "), "{len}: {text}");
    }
    // What the file holds is not what was sent.
    let mut damaged = whole.clone();
    let last = whole.len() - 4096;
    damaged[last..last + 16].fill(0xff);
    assert!(!refused(&place, &damaged, AT).is_empty());
    let missing = verify_received(&place, Path::new("/d/none"), AT, (3, 7)).unwrap_err();
    assert!(missing.to_string().starts_with("received database: cannot find /d/none"), "{missing}");
    assert!(!disk.crashed());
}

#[test]
fn what_cannot_be_served_is_refused_in_one_line() {
    let (_, place) = place();
    let auth = received(&place, &[("auth", "authEnabled", &[1])]);
    assert_eq!(
        refused(&place, &auth, AT),
        "received database: the database has authentication enabled, which this version cannot \
         serve; disable it with etcd (etcdctl auth disable) first"
    );
    let newer =
        received(&place, &[("auth", "authEnabled", &[0]), ("cluster", "clusterVersion", b"3.8.0")]);
    let text = refused(&place, &newer, AT);
    assert!(text.contains("3.8.0") && !text.contains('\n'), "{text}");
}
