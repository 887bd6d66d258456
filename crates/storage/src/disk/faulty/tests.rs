//! What the simulated disk keeps and what it loses.

use super::*;

const DIR: &str = "/data";

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// A disk with a durable directory and a durable file `a` of 2048 bytes of `1`.
fn disk() -> (Faulty, Arc<dyn File>) {
    let disk = Faulty::new(1);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let file = disk.open(&path("a"), Open::Create).unwrap();
    file.write_all_at(&[1; 2048], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    (disk, file)
}

#[test]
fn images_keep_what_is_synced_and_tear_the_rest() {
    let (disk, file) = disk();
    file.write_all_at(&[2; 1536], 1024).unwrap();
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let image = disk.image(&mut Rng::new(seed));
        let bytes = image.files[&path("a")].to_vec();
        assert!(bytes[..1024].iter().all(|byte| *byte == 1));
        for sector in bytes.chunks(512).skip(2) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is whole");
        }
        match bytes {
            _ if bytes == [[1; 1024].as_slice(), &[2; 1536]].concat() => kept += 1,
            _ if bytes == [1; 2048] => lost += 1,
            _ => torn += 1,
        }
    }
    assert!(kept > 20 && lost > 20 && torn > 20, "{kept} {lost} {torn}");
    assert_eq!(disk.image(&mut Rng::new(5)), disk.image(&mut Rng::new(5)));
}

#[test]
fn names_are_lost_from_the_end() {
    let (disk, _file) = disk();
    disk.open(&path("b"), Open::Create).unwrap();
    disk.rename(&path("b"), &path("c")).unwrap();
    disk.remove(&path("a")).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let image = disk.image(&mut Rng::new(seed));
        let names: Vec<_> = image.files.keys().map(|name| name.display().to_string()).collect();
        seen.insert(names.join(" "));
    }
    let seen: Vec<_> = seen.into_iter().collect();
    assert_eq!(seen, ["/data/a", "/data/a /data/b", "/data/a /data/c", "/data/c"]);
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(disk.image(&mut Rng::new(0)), disk.live_image());
}

#[test]
fn a_crash_stops_everything_and_an_image_starts_again() {
    let (disk, file) = disk();
    disk.crash_at(disk.operations() + 1);
    file.write_all_at(b"x", 0).unwrap();
    assert!(file.sync_data().is_err() && disk.crashed());
    assert!(file.len().is_err() && disk.list(Path::new(DIR)).is_err());
    let image = disk.live_image();
    let again = Faulty::from_image(&image, 2).unwrap();
    assert_eq!(again.read(&path("a")).unwrap()[..2], *b"x\x01");
    assert_eq!(again.image(&mut Rng::new(3)), image);
}

#[test]
fn a_failed_sync_and_a_lie_make_nothing_durable() {
    for lie in [false, true] {
        let (disk, file) = disk();
        file.write_all_at(b"x", 0).unwrap();
        if lie {
            disk.lie_about_syncs();
        } else {
            disk.fail_sync_after(1);
            disk.sync_dir(Path::new(DIR)).unwrap();
            assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(Errno::EIO as i32));
        }
        file.sync_data().unwrap();
        let mut rng = Rng::new(1);
        let lost = (0..50).any(|_| disk.image(&mut rng).files[&path("a")].to_vec()[0] == 1);
        assert!(lost);
    }
}

#[test]
fn a_full_disk_takes_what_fits() {
    let (disk, file) = disk();
    disk.set_capacity(Some(3048));
    let other = disk.open(&path("b"), Open::Create).unwrap();
    let full = |result: io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
    };
    full(other.allocate(1001));
    other.allocate(900).unwrap();
    other.write_all_at(&[3; 900], 0).unwrap();
    full(file.write_all_at(&[4; 300], 1948));
    assert_eq!(file.len().unwrap(), 2148);
    disk.remove(&path("b")).unwrap();
    full(file.allocate(2149));
    drop(other);
    file.allocate(3048).unwrap();
}

#[test]
fn locks_and_rights_are_per_handle() {
    let (disk, file) = disk();
    let other = disk.open(&path("a"), Open::Read).unwrap();
    assert!(other.write_all_at(b"x", 0).is_err());
    file.try_lock(Lock::Ofd).unwrap();
    assert_eq!(other.try_lock(Lock::Ofd).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    other.try_lock(Lock::Flock).unwrap();
    drop(file);
    other.try_lock(Lock::Ofd).unwrap();
}

#[test]
fn rot_flips_one_bit() {
    let (disk, file) = disk();
    disk.corrupt(&path("a"), 7, 0x10).unwrap();
    assert_eq!(disk.read(&path("a")).unwrap()[6..9], [1, 0x11, 1]);
    disk.corrupt(&path("a"), 7, 0x10).unwrap();
    disk.flip_reads(2);
    let mut buffer = [1; 2048];
    let flipped: u32 = (0..100)
        .map(|_| {
            file.read_exact_at(&mut buffer, 0).unwrap();
            buffer.iter().map(|byte| (byte ^ 1).count_ones()).sum::<u32>()
        })
        .sum();
    assert!((20..80).contains(&flipped), "{flipped}");
}
