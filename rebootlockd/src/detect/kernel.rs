//! `kernel`: the running kernel is not the newest of its flavour that is installed.

mod installed;
mod version;

use std::cmp::Ordering;
use std::path::Path;

use self::version::{compare, flavour};
use super::Verdict;

/// `uname -r`.
pub(super) fn running() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Compares `running` with the kernels installed under `root`.
pub(super) fn look(root: &Path, running: &str) -> Verdict {
    let installed = match installed::kernels(root) {
        Ok(installed) => installed,
        Err(why) => return Verdict::failed(why),
    };
    if installed.is_empty() {
        return Verdict::failed(format!(
            "no kernel is installed under {}: none in boot, lib/modules or the entries of the boot \
             loader",
            root.display()
        ));
    }
    let own = flavour(running);
    let newest = installed
        .iter()
        .filter(|release| flavour(release) == own)
        .max_by(|one, other| compare(one, other));
    match newest {
        None => Verdict::failed(format!(
            "no installed kernel is of the flavour of the running one, {running}; installed are {}",
            installed.iter().take(10).cloned().collect::<Vec<_>>().join(", ")
        )),
        Some(newest) if newest == running => Verdict::Clear,
        Some(newest) if compare(newest, running) == Ordering::Greater => {
            Verdict::wanted(format!("kernel {running} is running, {newest} is installed"))
        }
        // The same by other letters, or newer than all others and still there.
        Some(_) if installed.contains(running) => Verdict::Clear,
        Some(newest) => Verdict::wanted(format!(
            "kernel {running} is running and no longer installed, {newest} is"
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A tree with these files, which are not empty.
    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "kernel").unwrap();
        }
        root
    }

    fn says(files: &[&str], running: &str) -> Verdict {
        look(tree(files).path(), running)
    }

    fn newer(running: &str, newest: &str) -> Verdict {
        Verdict::wanted(format!("kernel {running} is running, {newest} is installed"))
    }

    #[test]
    fn debian_and_ubuntu() {
        let debian = [
            "boot/vmlinuz-6.1.0-9-amd64",
            "boot/vmlinuz-6.1.0-13-amd64",
            "boot/initrd.img-6.1.0-20-amd64",
            "boot/config-6.1.0-21-amd64",
            "boot/vmlinuz-6.1.0-22-rt-amd64",
            "boot/vmlinuz-6.1.0-23-cloud-amd64",
            "lib/modules/6.1.0-24-amd64/modules.dep",
        ];
        let newest = "6.1.0-13-amd64";
        assert_eq!(says(&debian, "6.1.0-9-amd64"), newer("6.1.0-9-amd64", newest));
        assert_eq!(says(&debian, newest), Verdict::Clear);
        assert_eq!(says(&debian, "6.1.0-22-rt-amd64"), Verdict::Clear);
        let backport = ["boot/vmlinuz-6.1.0-13-amd64", "boot/vmlinuz-6.5.0-0.deb12.4-amd64"];
        assert_eq!(says(&backport, newest), newer(newest, "6.5.0-0.deb12.4-amd64"));
        let ubuntu = [
            "boot/vmlinuz-5.15.0-91-generic",
            "boot/vmlinuz-5.15.0-101-generic",
            "boot/vmlinuz-6.5.0-1014-aws",
        ];
        let running = "5.15.0-91-generic";
        assert_eq!(says(&ubuntu, running), newer(running, "5.15.0-101-generic"));
    }

    #[test]
    fn rhel_and_fedora() {
        let el9 = [
            "boot/vmlinuz-5.14.0-362.8.1.el9_3.x86_64",
            "lib/modules/5.14.0-362.8.1.el9_3.x86_64/vmlinuz",
            "boot/vmlinuz-5.14.0-362.13.1.el9_3.x86_64",
            "boot/vmlinuz-5.14.0-362.18.1.el9_3.x86_64+debug",
            "boot/vmlinuz-5.14.0-362.18.1.el9_3.x86_64+rt",
            "boot/vmlinuz-0-rescue-3b1c7f2e6a0d4c0d9a2b7b0a6f3e1d22",
            "boot/.vmlinuz-5.14.0-999.el9.x86_64.hmac",
            "boot/vmlinuz-5.14.0-998.el9.x86_64.hmac",
            "boot/vmlinuz-5.14.0-997.el9.x86_64.rpmsave",
        ];
        let (old, new) = ("5.14.0-362.8.1.el9_3.x86_64", "5.14.0-362.13.1.el9_3.x86_64");
        assert_eq!(says(&el9, old), newer(old, new));
        assert_eq!(says(&el9, new), Verdict::Clear);
        let fedora = [
            "usr/lib/modules/6.6.7-200.fc39.x86_64/vmlinuz",
            "usr/lib/modules/6.5.12-100.fc37.x86_64/vmlinuz",
        ];
        let running = "6.5.12-100.fc37.x86_64";
        assert_eq!(says(&fedora, running), newer(running, "6.6.7-200.fc39.x86_64"));
        let oracle =
            ["boot/vmlinuz-4.18.0-513.el8.x86_64", "boot/vmlinuz-5.15.0-200.131.27.el8uek.x86_64"];
        assert_eq!(says(&oracle, "4.18.0-513.el8.x86_64"), Verdict::Clear);
    }

    #[test]
    fn suse() {
        let suse = [
            "boot/vmlinuz-5.14.21-150500.55.39-default",
            "usr/lib/modules/5.14.21-150500.55.44-default/vmlinuz",
            "boot/vmlinux-5.14.21-150500.55.7-default.gz",
            "boot/vmlinuz-5.14.21-150500.99.1-debug",
        ];
        let (old, new) = ("5.14.21-150500.55.39-default", "5.14.21-150500.55.44-default");
        assert_eq!(says(&suse, old), newer(old, new));
        assert_eq!(says(&suse, new), Verdict::Clear);
        let power = ["boot/vmlinux-6.4.0-1-default", "boot/vmlinux-6.4.0-2-default"];
        assert_eq!(says(&power, "6.4.0-1-default"), newer("6.4.0-1-default", "6.4.0-2-default"));
    }

    #[test]
    fn entries_of_the_boot_loader_count_if_their_kernel_is_there() {
        let root =
            tree(&["boot/0a1b/6.6.9-200.fc39.x86_64/linux", "boot/vmlinuz-6.6.8-200.fc39.x86_64"]);
        let entries = root.path().join("boot/loader/entries");
        std::fs::create_dir_all(&entries).unwrap();
        let entry = |name: &str, linux: &str| {
            std::fs::write(entries.join(name), format!("title x\nlinux\t{linux}\noptions quiet\n"))
                .unwrap();
        };
        entry("a.conf", "/0a1b/6.6.9-200.fc39.x86_64/linux");
        entry("b.conf", "/vmlinuz-6.6.8-200.fc39.x86_64");
        entry("gone.conf", "/vmlinuz-6.6.99-200.fc39.x86_64");
        entry("ignored.txt", "/0a1b/6.6.9-200.fc39.x86_64/linux");
        let (old, new) = ("6.6.8-200.fc39.x86_64", "6.6.9-200.fc39.x86_64");
        assert_eq!(look(root.path(), old), newer(old, new));
        assert_eq!(look(root.path(), new), Verdict::Clear);
    }

    #[test]
    fn a_kernel_that_was_removed_while_it_runs_is_a_reason() {
        let said = says(&["boot/vmlinuz-6.1.0-9-amd64"], "6.1.0-13-amd64");
        let reason = "kernel 6.1.0-13-amd64 is running and no longer installed, 6.1.0-9-amd64 is";
        assert_eq!(said, Verdict::wanted(reason));
    }

    #[test]
    fn no_kernel_or_only_others_is_a_failure() {
        for (files, running) in [
            (&[][..], "6.1.0-13-amd64"),
            (
                &["boot/vmlinuz", "boot/vmlinuz.old", "lib/modules/6.1.0-13-amd64/kernel/x.ko"],
                "6.1.0-13-amd64",
            ),
            (&["boot/vmlinuz-6.1.0-13-cloud-amd64"], "6.1.0-13-amd64"),
            (&["boot/vmlinuz-huge-5.15.19"], "5.15.19"),
            (&["boot"], "6.1.0-13-amd64"),
        ] {
            assert!(matches!(says(files, running), Verdict::Failed { .. }), "{files:?}");
        }
    }

    #[test]
    fn images_that_are_empty_or_lead_nowhere_are_none() {
        let root = tree(&["boot/vmlinuz-6.1.0-9-amd64"]);
        std::fs::write(root.path().join("boot/vmlinuz-6.1.0-10-amd64"), "").unwrap();
        let link: PathBuf = root.path().join("boot/vmlinuz-6.1.0-11-amd64");
        std::os::unix::fs::symlink("/nonexistent/kernel", link).unwrap();
        std::fs::create_dir(root.path().join("boot/vmlinuz-6.1.0-12-amd64")).unwrap();
        assert_eq!(look(root.path(), "6.1.0-9-amd64"), Verdict::Clear);
    }
}
