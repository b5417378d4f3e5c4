//! Tasks: work that goes on after its call was answered.

use vim25_types::soap::Fault;
use vim25_types::{
    AnyValue, LocalizableMessage, ManagedObjectReference as Moref, TaskInfo, TaskInfoState, TaskReasonUser,
};

use super::dispatch::Cx;
use super::{fault, vm};
use crate::world::{Entry, now};

/// What a task's work ends with.
pub(super) type Outcome = Result<Option<AnyValue>, Fault>;

impl Cx {
    /// Starts a task named `operation` (`vim25` description id) on `object`.  Tasks on one VM exclude each other; a folder
    /// or a manager takes any number at once.
    pub(super) fn task(
        &self,
        operation: &str,
        object: &Moref,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> Moref {
        let user = self.user();
        let task = self.lab.change(|w| {
            // A manager is no managed entity: its tasks have none.
            let entity = w.get(&object.value);
            let (entity, entity_name) = (entity.map(Entry::moref), entity.map(|e| e.name.clone()));
            w.add_task(|number, moref| TaskInfo {
                key: moref.value.clone(),
                task: moref,
                description: Some(LocalizableMessage { key: operation.into(), ..LocalizableMessage::default() }),
                name: Some(self.method.clone()),
                description_id: operation.into(),
                entity,
                entity_name,
                state: TaskInfoState::Running,
                reason: TaskReasonUser { user_name: user, ..TaskReasonUser::default() }.into(),
                queue_time: now(),
                start_time: Some(now()),
                event_chain_id: i32::try_from(number).unwrap_or_default(),
                ..TaskInfo::default()
            })
        });
        let (lab, id, object) = (self.lab.clone(), task.value.clone(), object.clone());
        let forced = self.task_fault.clone();
        tokio::spawn(async move {
            let exclusive = lab.read(|w| w.vm(&object.value).is_some());
            let busy = exclusive.then(|| lab.occupy(&object.value, &id));
            let outcome = match (forced, &busy) {
                (Some(fault), _) => Err(fault),
                (None, Some(Err(other))) => vm::must_be_ready(&lab, &object).and(Err(fault::in_progress(other))),
                (None, _) => match vm::must_be_ready(&lab, &object) {
                    Ok(()) => work.await,
                    Err(not_ready) => Err(not_ready),
                },
            };
            // Before anybody is told of the end: the next task may follow at once.
            drop(busy);
            lab.change(|w| {
                let Some(task) = w.task_mut(&id) else { return };
                task.complete_time = Some(now());
                match outcome {
                    Ok(result) => {
                        task.state = TaskInfoState::Success;
                        task.result = result;
                    }
                    Err(fault) => {
                        task.state = TaskInfoState::Error;
                        task.error = Some(fault::localized(fault));
                    }
                }
            });
        });
        task
    }
}
