//! Paths of the container, seen from outside it: a symbolic link of an image must not lead out of the image.

use std::path::{Component, Path, PathBuf};

/// So many links are followed, as the kernel does.
const LINKS: u32 = 40;

/// The place under `root` that `path` means inside it.  What does not exist is kept as it is written.
///
/// # Errors
/// A loop of links.
pub(crate) fn resolve(root: &Path, path: &str) -> std::io::Result<PathBuf> {
    let mut left = LINKS;
    let mut inside = PathBuf::new();
    let mut todo: Vec<String> = names(Path::new(path));
    todo.reverse();
    while let Some(name) = todo.pop() {
        if name == ".." {
            // Above the root is the root.
            inside.pop();
            continue;
        }
        let next = inside.join(&name);
        let Ok(target) = std::fs::read_link(root.join(&next)) else {
            inside = next;
            continue;
        };
        left = left.checked_sub(1).ok_or_else(|| std::io::Error::from_raw_os_error(libc::ELOOP))?;
        if target.is_absolute() {
            inside = PathBuf::new();
        }
        todo.extend(names(&target).into_iter().rev());
    }
    Ok(root.join(inside))
}

/// The names of a path, `..` among them.
fn names(path: &Path) -> Vec<String> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            Component::ParentDir => Some("..".to_owned()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn links_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(root.join("run/systemd")).unwrap();
        symlink("../run/systemd/resolv.conf", root.join("etc/resolv.conf")).unwrap();
        symlink("/../../../etc/passwd", root.join("etc/out")).unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        let at = |path: &str| resolve(root, path).unwrap().strip_prefix(root).unwrap().display().to_string();
        assert_eq!(at("/etc/resolv.conf"), "run/systemd/resolv.conf");
        assert_eq!(at("/etc/out"), "etc/passwd");
        assert_eq!(at("../../x/./y"), "x/y");
        assert_eq!(at("/"), "");
        assert_eq!(resolve(root, "/a").unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    proptest! {
        #[test]
        fn nothing_leads_out(path in "(/|\\.\\.|\\.|[a-c]){0,12}") {
            let root = Path::new("/nonexistent/root");
            prop_assert!(resolve(root, &path).unwrap().starts_with(root));
        }
    }
}
