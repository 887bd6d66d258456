//! A file that bbolt wrote (`testdata/bolt/make.go`): inline and nested buckets, sequences, a
//! freelist.

use super::audit::audit;
use super::*;
use crate::disk::{Disk, Open};

fn foreign() -> Faulty {
    let disk = Faulty::new(1);
    let file = disk.open(DB.as_ref(), Open::Create).unwrap();
    file.write_all_at(include_bytes!("../../../testdata/bolt/bbolt.db"), 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir("/".as_ref()).unwrap();
    drop(file);
    disk
}

fn nested(view: &View, path: &[&[u8]]) -> Vec<(Bytes, Bytes)> {
    view.scan_nested(path, b"").collect::<Result<_, _>>().unwrap()
}

fn check_nested(view: &View) {
    let path: &[&[u8]] = &[b"outer", b"inner"];
    assert_eq!(view.buckets_nested(path).unwrap(), ["innermost"]);
    assert_eq!(nested(view, path), [("x".into(), "y".into())]);
    let deep = nested(view, &[b"outer", b"inner", b"innermost"]);
    assert_eq!(deep, [("deep".into(), vec![b'd'; 2000].into())]);
    assert!(nested(view, &[b"outer", b"nobody"]).is_empty());
}

#[test]
fn what_bbolt_wrote_is_read_and_kept() {
    let disk = foreign();
    let mut database = open(&disk, 4096).unwrap();
    let view = database.view();
    assert_eq!(view.buckets().unwrap(), ["empty", "inline", "large", "outer"]);
    assert!(nested(&view, &[b"empty"]).is_empty());
    assert_eq!(nested(&view, &[b"inline"]), [("a".into(), "1".into()), ("b".into(), "".into())]);
    assert_eq!(nested(&view, &[b"large"]).len(), 40);
    assert_eq!(view.get(b"large", b"overflow").unwrap().map(|value| value.len()), Some(9000));
    assert_eq!(view.get(b"large", b"row-00").unwrap(), None);
    assert_eq!(view.get(b"outer", b"plain").unwrap().as_deref(), Some(&b"row"[..]));
    assert_eq!(view.get(b"outer", b"inner").unwrap(), None, "a bucket is not a row");
    check_nested(&view);
    drop(view);

    // An inline bucket gets pages of its own, a nested one stays what it is.
    let mut batch = Batch::default();
    batch.put(b"inline", "c".into(), "3".into());
    batch.put(b"empty", "first".into(), "row".into());
    batch.delete(b"outer", "plain".into());
    for row in 0..500 {
        batch.put(b"outer", format!("row-{row}").into(), vec![7; 100].into());
    }
    let view = database.commit(batch).unwrap();
    audit(&disk, &database);
    check_nested(&view);
    assert_eq!(nested(&view, &[b"inline"]).len(), 3);
    assert_eq!(view.bucket(b"inline").unwrap().unwrap().1, 1, "the sequence is kept");
    drop(view);

    for key in ["inner", "row-1"] {
        let mut batch = Batch::default();
        batch.put(b"outer", "a".into(), "1".into());
        batch.put(b"outer", key.into(), "not a bucket".into());
        let refused = database.commit(batch).is_err();
        assert_eq!(refused, key == "inner");
        audit(&disk, &database);
    }
    drop(database);
    let database = open(&disk, 4096).unwrap();
    audit(&disk, &database);
    check_nested(&database.view());
    assert_eq!(database.view().get(b"outer", b"row-1").unwrap().unwrap(), "not a bucket");
}

#[test]
fn a_freelist_that_lists_a_page_in_use_is_refused() {
    let disk = foreign();
    let meta = *open(&disk, 4096).unwrap().view().meta();
    let freelist = meta.freelist.unwrap().offset(4096);
    // Its first entry becomes the root.
    let bytes = disk.read(DB.as_ref()).unwrap();
    let first = bytes[freelist as usize + 16];
    disk.corrupt(DB.as_ref(), freelist + 16, first ^ meta.root.0 as u8).unwrap();
    let error = open(&disk, 4096).unwrap_err().to_string();
    let expected = format!("/db: damaged at byte {freelist}: page {} is listed as", meta.root);
    assert!(error.starts_with(&expected), "{error}");
}
