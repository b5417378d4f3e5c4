//! What an admin does to a container's VM beside the engine, and Docker follows.

use port_layer::container::events::Subject;
use port_layer::container::table::{Change, Container, Table};
use vim25::types::{ManagedObjectReference, methods};

use crate::stage::{Stage, in_time, runtime};

async fn until(stage: &Stage, what: &str, accept: impl Fn(&Table) -> bool) {
    let seen = async {
        while !accept(&stage.engine.table()) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    in_time(what, seen).await;
}

#[test]
fn a_vm_that_an_admin_renames_or_destroys_is_followed() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let id = stage.create("one", &["run"], "{}").await.unwrap();
        stage.create("two", &["run"], "{}").await.unwrap();
        let this = ManagedObjectReference::new("VirtualMachine", &stage.engine.table().find(&id).unwrap().vm);
        let rename = async |new_name: &str| {
            let rename = methods::RenameTask { this: this.clone(), new_name: new_name.into() };
            stage.admin.run(&rename).await.unwrap();
        };
        let is = |name: &'static str| {
            let id = id.clone();
            move |table: &Table| table.find(&id).is_ok_and(|c| c.record.name == name)
        };
        // As the engine names VMs, and as people do.
        rename(&format!("web-{}", &id[..12])).await;
        until(&stage, "web", is("web")).await;
        rename("db").await;
        until(&stage, "db", is("db")).await;
        let vm = stage.admin.read(&this, &["name"]).await.unwrap();
        assert_eq!(vm.get::<String>("name").unwrap().as_deref(), Some("db"), "the admin's name stays");
        // Neither another's name nor one that Docker does not know.
        rename(&format!("two-{}", &id[..12])).await;
        rename("no name of Docker's").await;
        stage.engine.rename_container("db", "again").await.unwrap();
        until(&stage, "again", is("again")).await;
        let named = |c: &Container| c.record.name.clone();
        let mut names: Vec<_> = stage.engine.table().iter().map(named).collect();
        names.sort();
        assert_eq!(names, ["again", "two"]);

        stage.admin.run(&methods::DestroyTask { this: this.clone() }).await.unwrap();
        until(&stage, "gone", |table| table.find(&id).is_err()).await;
        let (past, _) = stage.history.listen();
        let told = past.iter().filter_map(|event| match &event.subject {
            Subject::Container { record, change } if record.id == id => Some(change.clone()),
            _ => None,
        });
        let told: Vec<_> = told.collect();
        let renamed = |old: &str| Change::Rename { old: old.into() };
        assert_eq!(told, [Change::Create, renamed("one"), renamed("web"), renamed("db"), Change::Destroy]);
        stage.clean_up().await;
    });
}
