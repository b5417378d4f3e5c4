//! Images on the datastore: the [`image_store::Backend`] whose disks are VMDKs of the endpoint VM's for as long as they are
//! written, and whose documents are files beside them.
//!
//! ```text
//! [datastore] image-store/images/index.json        which images there are
//! [datastore] image-store/images/NAME/disk.vmdk    one disk
//! open: folder -> create and attach -> mkfs, when it has no parent -> mount      close: unmount -> detach
//! ```

mod device;
mod disks;
mod files;

pub use disks::Datastore;

/// The images of a VCH.
pub type Images = image_store::ImageStore<Datastore>;
