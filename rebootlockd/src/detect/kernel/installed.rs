//! Which kernels are installed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// What a kernel's image is called in `/boot`, before its release.
const PREFIXES: [&str; 6] = ["vmlinuz-", "vmlinux-", "zImage-", "bzImage-", "Image-", "image-"];

/// What it is called beside its modules, or in a folder of its own.
const NAMES: [&str; 7] = ["vmlinuz", "vmlinux", "zImage", "bzImage", "Image", "image", "linux"];

/// Left behind, or not images.
const NO_IMAGES: [&str; 12] = [
    ".old",
    ".bak",
    ".hmac",
    ".sig",
    ".signed",
    ".rpmsave",
    ".rpmnew",
    ".rpmorig",
    ".dpkg-new",
    ".dpkg-old",
    ".dpkg-tmp",
    "~",
];

/// Releases of the kernels under `root`.
///
/// `/boot` is where Debian, RHEL and SUSE have them, `/lib/modules` where Fedora and SUSE have them
/// too. A folder with modules but no image is a leftover or an installation under way. Entries of
/// the boot loader (the UAPI group's specification) name those that are elsewhere.
pub(super) fn kernels(root: &Path) -> Result<BTreeSet<String>, String> {
    let mut found = BTreeSet::new();
    for path in list(&root.join("boot"))? {
        if let Some(release) = release_of_image(&path)
            && is_image(&path)?
        {
            found.insert(release);
        }
    }
    for modules in ["lib/modules", "usr/lib/modules"] {
        for folder in list(&root.join(modules))? {
            if let Some(release) = release(&name(&folder))
                && any_image(NAMES.iter().map(|name| folder.join(name)))?
            {
                found.insert(release);
            }
        }
    }
    for entries in ["boot/loader/entries", "boot/efi/loader/entries", "efi/loader/entries"] {
        for entry in list(&root.join(entries))? {
            if entry.extension().is_some_and(|extension| extension == "conf") {
                found.extend(release_of_entry(root, &entry)?);
            }
        }
    }
    Ok(found)
}

/// What is in a folder; nothing, if there is no such folder.
fn list(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error: io::Error| format!("cannot read {}: {error}", folder.display());
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(unreadable)).collect()
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The release in an image's name, without what compresses it.
fn release_of_image(path: &Path) -> Option<String> {
    let name = name(path);
    let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let plain = [".gz", ".xz", ".zst", ".efi"].iter().find_map(|end| rest.strip_suffix(end));
    release(plain.unwrap_or(rest))
}

/// A release begins with its version. Rescue images are none: nobody means to boot them.
fn release(text: &str) -> Option<String> {
    let leftover = NO_IMAGES.iter().any(|end| text.ends_with(end));
    let rescue = text.split(['-', '.', '_']).any(|part| part == "rescue");
    (text.starts_with(|c: char| c.is_ascii_digit()) && !leftover && !rescue)
        .then(|| text.to_owned())
}

/// Whether it is a file with something in it. One being installed may be empty yet.
fn is_image(path: &Path) -> Result<bool, String> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.is_file() && found.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(format!("cannot look at {}: {error}", path.display())),
    }
}

fn any_image(paths: impl IntoIterator<Item = PathBuf>) -> Result<bool, String> {
    for path in paths {
        if is_image(&path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The release that an entry of the boot loader would boot, if its image is there.
fn release_of_entry(root: &Path, entry: &Path) -> Result<Option<String>, String> {
    let text = match std::fs::read(entry) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        // Removed between the two looks.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", entry.display())),
    };
    let value = |line: &str| {
        let (key, value) = line.trim().split_once(char::is_whitespace)?;
        (key == "linux").then(|| value.trim().trim_start_matches('/').to_owned())
    };
    let Some(linux) = text.lines().find_map(value) else { return Ok(None) };
    let image = Path::new(&linux);
    let release = release_of_image(image).or_else(|| {
        let named = NAMES.contains(&name(image).as_str());
        image.parent().filter(|_| named).and_then(|folder| release(&name(folder)))
    });
    // The path begins at the partition that the entry is on.
    let places = ["boot", "boot/efi", "efi", ""].map(|place| root.join(place).join(image));
    Ok(if any_image(places)? { release } else { None })
}
