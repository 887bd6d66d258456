//! Who may read the data directory.
//!
//! What is made here is for its owner alone (`storage::disk`): 0700, and files 0600. A directory
//! that was there before is the operator's, and left as it is.
//!
//! *Contract.* `CheckDirPermission` in `client/pkg/fileutil` of etcd v3.7.1.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::log;

/// What a data directory should have.
const PRIVATE: u32 = 0o700;

/// Says so when others may look into a data directory.
pub(crate) fn warn_of_permissions(root: &str) {
    let Ok(found) = fs::metadata(root) else { return };
    if let Some(doubt) = doubt(root, &found.permissions()) {
        log::warn("check file permission").field("error", &doubt).emit();
    }
}

fn doubt(root: &str, permissions: &Permissions) -> Option<String> {
    let mode = permissions.mode();
    (mode & 0o777 != PRIVATE).then(|| {
        format!(
            "directory {root:?} exist, but the permission is {:?}. The recommended permission is \
             {:?} to prevent possible unprivileged access to the data",
            show("d", mode),
            show("-", PRIVATE)
        )
    })
}

/// A mode as Go prints it: its kind, special bits where there are any, and three times `rwx`.
fn show(kind: &str, mode: u32) -> String {
    let mut text = String::new();
    let special = [(0o4000, 'u'), (0o2000, 'g'), (0o1000, 't')];
    if kind == "d" {
        text.push('d');
    }
    text.extend(special.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, letter)| *letter));
    if text.is_empty() {
        text.push('-');
    }
    for (at, letter) in "rwxrwxrwx".chars().enumerate() {
        text.push(if mode & (0o400 >> at) != 0 { letter } else { '-' });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_may_read_is_told() {
        // Seen by starting etcd on directories with these modes.
        for (mode, shown) in [(0o755, "drwxr-xr-x"), (0o750, "drwxr-x---"), (0o2770, "dgrwxrwx---")]
        {
            let told = doubt("d1", &Permissions::from_mode(0o040_000 | mode));
            let expected = format!(
                "directory \"d1\" exist, but the permission is \"{shown}\". The recommended \
                 permission is \"-rwx------\" to prevent possible unprivileged access to the data"
            );
            assert_eq!(told, Some(expected));
        }
        assert_eq!(doubt("d1", &Permissions::from_mode(0o040_700)), None);
    }
}
