//! What is taken for proof: of entries, of logs that are complete, and of nothing being lost.

use super::*;

/// Their entries from 140 on are of term 9.
const OTHERS: Left = Left { apart: Some((140, 9)), ..WHOLE };

/// Goes on with a log, by these entries, after the snapshot of a leader if one came.
fn append(dir: &DataDir, received: Option<&walpb::Snapshot>, entries: &[Entry], commit: u64) {
    let at = wal::snapshots(&Real, dir.wal()).unwrap().pop().unwrap();
    let options = wal::Options { segment_bytes: 1 << 14, sync: false };
    let mut wal = Wal::open(Arc::new(Real), dir.wal(), &at, options).unwrap().wal;
    if let Some(record) = received {
        wal.save_snapshot(record).unwrap();
    }
    let term = entries.last().unwrap().term;
    wal.append(entries, Some(&HardState { term, vote: Some(1), commit: Some(commit) })).unwrap();
    wal.close().unwrap();
}

/// The directory of a restored cluster.
fn restored(bench: &Bench) -> DataDir {
    bench.rescue(&[bench.make("a", &WHOLE)], &[]);
    let dir = DataDir::new(bench.0.path().join("old/again"));
    std::fs::rename(bench.new_dir(), dir.root()).unwrap();
    dir
}

#[test]
fn the_log_of_a_restored_cluster_is_not_taken_for_all_of_it() {
    let bench = Bench::new();
    let dir = restored(&bench);
    let puts: Vec<Entry> =
        (2..=30).map(|index| Entry { index: Some(index), ..entry(index + 10, 2) }).collect();
    append(&dir, None, &puts, 28);
    let dirs = [dir];
    let report = bench.rescue(&dirs, &["--dry-run"]);
    assert_eq!(report["chosen"]["revision"], revision(250) + 29);
    assert_eq!(report["chosen"]["certainRevision"], revision(250) + 27);
    // All of the data was in the database, and the log begins with the first entry.
    std::fs::remove_file(dirs[0].database()).unwrap();
    let told = bench.refused(&dirs, &[]);
    assert!(told.starts_with("nothing can be rescued: no database is whole"), "{told}");
}

#[test]
fn a_log_that_breaks_off_behind_its_members_is_not_taken_for_all_of_it() {
    let bench = Bench::new();
    let dir = restored(&bench);
    std::fs::remove_file(dir.database()).unwrap();
    let segment = segments(&dir).pop().unwrap();
    let log = wal::survey(&Real, dir.wal()).unwrap();
    assert_eq!((log.last_entry(), log.snapshots.len()), (Some(LogIndex(1)), 2));
    // The last record is that of the snapshot.
    std::fs::File::options().write(true).open(&segment).unwrap().set_len(4096).unwrap();
    let bytes = std::fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    flip(&segment, end - 1);
    let log = wal::survey(&Real, dir.wal()).unwrap();
    assert_eq!((log.last_entry(), log.snapshots.len()), (Some(LogIndex(1)), 1));
    let told = bench.refused(&[dir], &[]);
    assert!(told.starts_with("nothing can be rescued: no database is whole"), "{told}");
}

#[test]
fn what_stood_before_the_snapshot_of_a_leader_does_not_count() {
    let bench = Bench::new();
    let leader = Left { log: 155, commit: 150, database: 150, ..OTHERS };
    let behind = Left { member: 2, log: 160, commit: 100, database: 0, ..WHOLE };
    let dirs = [bench.make("a", &leader), bench.make("b", &behind)];
    let record = walpb::Snapshot {
        index: Some(150),
        term: Some(9),
        conf_state: Some(ConfState { voters: vec![1, 2, 3], ..ConfState::default() }),
    };
    let after: Vec<Entry> = (151..=250).map(|index| OTHERS.entry(index)).collect();
    append(&dirs[1], Some(&record), &after, 240);
    let report = bench.rescue(&dirs, &[]);
    bench.check(250, &OTHERS);
    assert_eq!(report["chosen"]["certainRevision"], revision(240));
    assert_eq!(report["chosen"]["mayLackAcknowledged"], false);
}

#[test]
fn a_dry_run_without_any_database_tells_the_same() {
    let bench = Bench::new();
    let dirs = [bench.make("a", &Left { database: 0, ..WHOLE })];
    let dry = bench.rescue(&dirs, &["--dry-run"]);
    assert!(!bench.new_dir().exists() && dry["made"].is_null());
    assert_eq!(dry["chosen"]["revision"], revision(250));
    assert_eq!((&dry["chosen"]["voters"], &dry["chosen"]["wholeVoters"]), (&3.into(), &1.into()));
    assert_eq!(dry["chosen"]["mayLackAcknowledged"], true);
    let made = bench.rescue(&dirs, &[]);
    assert_eq!((&dry["chosen"], &dry["directories"]), (&made["chosen"], &made["directories"]));
}

#[test]
fn what_another_log_committed_is_certain_only_where_it_is_the_same() {
    let best = Left { commit: 210, ..WHOLE };
    let log = Left { member: 2, log: 235, commit: 230, database: 0, ..WHOLE };
    let after = Left { snapshot: 225, ..log };
    let database = Left { member: 2, log: 222, commit: 222, database: 220, ..WHOLE };
    for (other, certain) in [(&log, 230), (&after, 230), (&database, 222)] {
        let bench = Bench::new();
        let dirs = [bench.make("a", &best), bench.make("b", other)];
        let report = bench.rescue(&dirs, &[]);
        assert!(report["chosen"]["log"].as_str().unwrap().contains("/a/"), "{report}");
        assert_eq!(report["chosen"]["certainRevision"], revision(certain));
    }
    // A database alone shows its last entry.
    let bench = Bench::new();
    let dirs = [bench.make("a", &best), bench.make("b", &database)];
    std::fs::remove_dir_all(dirs[1].wal()).unwrap();
    let report = bench.rescue(&dirs, &[]);
    assert_eq!(report["chosen"]["certainRevision"], revision(220));
    // A log of which the middle is lost says how much was committed, and what only behind that: its
    // last segment has entry 240, or begins later.
    for (last, certain) in [(250, 240), (290, 210)] {
        let bench = Bench::new();
        let other = Left { member: 2, log: last, ..WHOLE };
        let dirs = [bench.make("a", &best), bench.make("b", &other)];
        std::fs::remove_file(dirs[1].database()).unwrap();
        let log = segments(&dirs[1]);
        for path in &log[4..log.len() - 1] {
            flip(path, 400);
        }
        let report = bench.rescue(&dirs, &[]);
        assert_eq!(report["directories"][1]["committed"], 240);
        assert_eq!(report["chosen"]["certainRevision"], revision(certain));
    }
}

#[test]
fn whole_logs_that_nothing_leads_to_prove_nothing() {
    let bench = Bench::new();
    // This one was cut off from the others, which have gone on, and lost their databases.
    let chosen = Left { log: 260, commit: 125, database: 120, ..WHOLE };
    let others = Left { log: 250, snapshot: 150, database: 0, ..OTHERS };
    let dirs = [
        bench.make("a", &chosen),
        bench.make("b", &Left { member: 2, ..others }),
        bench.make("c", &Left { member: 3, ..others }),
    ];
    let report = bench.rescue(&dirs, &[]);
    bench.check(260, &chosen);
    let told = &report["chosen"];
    assert_eq!((&told["entry"], &told["term"]), (&260.into(), &4.into()));
    assert_eq!((&told["voters"], &told["wholeVoters"]), (&3.into(), &3.into()));
    assert_eq!(told["lostEntries"], Value::Null);
    assert_eq!(told["mayLackAcknowledged"], true);
    assert_eq!(told["certainRevision"], revision(125));
}

#[test]
fn the_term_of_a_database_is_that_of_its_own_log() {
    let bench = Bench::new();
    // In a log that is damaged stand entries that were never agreed on.
    let stale = Left { member: 2, commit: 180, database: 0, apart: Some((190, 3)), ..WHOLE };
    let dirs = [bench.make("b", &stale), bench.make("a", &WHOLE)];
    flip(&segments(&dirs[0])[1], 300);
    let mut database =
        Database::open(&Real, &dirs[1].database(), bolt::Options::default()).unwrap();
    let mut batch = bolt::Batch::default();
    batch.delete(schema::META, schema::name(schema::TERM));
    database.commit(batch).unwrap();
    drop(database);
    let report = bench.rescue(&dirs, &[]);
    assert_eq!(report["directories"][1]["databases"][0]["term"], 0);
    assert!(report["chosen"]["log"].as_str().unwrap().contains("/a/"), "{report}");
    bench.check(250, &WHOLE);
}

/// A log up to entry 100, of which 80 are agreed on, and then 81 to 250 by another leader.
fn replaced(bench: &Bench) -> DataDir {
    let dir = bench.make("a", &Left { log: 100, commit: 80, database: 0, ..WHOLE });
    for (entries, commit) in [(81..=200, 190), (201..=250, 240)] {
        append(&dir, None, &entries.map(|index| entry(index, 9)).collect::<Vec<_>>(), commit);
    }
    dir
}

#[test]
fn what_may_have_been_replaced_where_the_log_is_damaged_is_not_certain() {
    let bench = Bench::new();
    let dirs = [replaced(&bench)];
    let needle = b"value 81 of term 9";
    let (path, at) = segments(&dirs[0])
        .into_iter()
        .find_map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            let at = bytes.windows(needle.len()).position(|found| found == needle)?;
            Some((path, at))
        })
        .unwrap();
    flip(&path, at);
    // The states behind the damage tell of 240 entries, but not that 81 to 100 are those here.
    let report = bench.rescue(&dirs, &[]);
    let told = &report["chosen"];
    assert_eq!((&told["entry"], &told["term"]), (&100.into(), &3.into()), "{report}");
    assert_eq!(told["revision"], revision(100));
    assert_eq!(told["certainRevision"], revision(80));
    assert_eq!(told["lostEntries"], serde_json::json!([101, 240]));
    assert_eq!(told["mayLackAcknowledged"], true);
}

#[test]
fn what_follows_a_lost_segment_by_its_index_shows_nothing_of_what_stands_before() {
    // The lost segment has replaced 81 to 100, or has not.
    for (lost, certain) in [(9, 80), (term(100), 240)] {
        let bench = Bench::new();
        let dir = bench.make("a", &Left { log: 100, commit: 80, database: 0, ..WHOLE });
        let fill = |entries: &[Entry]| {
            let count = segments(&dir).len();
            while segments(&dir).len() == count {
                append(&dir, None, entries, 80);
            }
            count
        };
        let all = |term: u64| (81..=100).map(|index| entry(index, term)).collect::<Vec<_>>();
        let own: Vec<Entry> = (81..=100).map(|index| WHOLE.entry(index)).collect();
        fill(&own);
        let segment = if lost == 9 { fill(&all(9)) } else { fill(&own) };
        let after: Vec<Entry> = (101..=250).map(|index| entry(index, lost)).collect();
        append(&dir, None, &after, 240);
        std::fs::remove_file(&segments(&dir)[segment - 1]).unwrap();
        let report = bench.rescue(&[dir], &[]);
        let told = &report["chosen"];
        assert_eq!(told["revision"], revision(250), "{report}");
        assert_eq!(told["certainRevision"], revision(certain), "{report}");
    }
}
