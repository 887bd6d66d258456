//! Alarms that are raised, by member and type.
//!
//! *Contract.* `server/etcdserver/api/v3alarm/alarms.go` of etcd v3.7.1.

use std::collections::BTreeSet;

use base::MemberId;
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{AlarmMember, AlarmType};

use crate::backend::{Memtable, Tables};
use crate::error::Damage;
use crate::schema;

/// The alarms that are raised. Types are plain numbers: etcd stores ones it does not know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alarms {
    raised: BTreeSet<(MemberId, i32)>,
}

fn message((member, alarm): (MemberId, i32)) -> AlarmMember {
    AlarmMember { member_id: member.0, alarm }
}

impl Alarms {
    /// Reads the bucket.
    pub(crate) fn load(tables: &Tables) -> Result<Self, Damage> {
        let mut raised = BTreeSet::new();
        for (key, _) in tables.plain_rows(schema::ALARM)? {
            let alarm: AlarmMember = proto::decode(key.clone())
                .map_err(|error| Damage::row(schema::ALARM, &key, error.to_string()))?;
            raised.insert((MemberId(alarm.member_id), alarm.alarm));
        }
        Ok(Self { raised })
    }

    /// Whether any member has raised `alarm`.
    pub fn is_raised(&self, alarm: AlarmType) -> bool {
        self.raised.iter().any(|&(_, raised)| raised == alarm as i32)
    }

    /// The alarms of one type, or all for `NONE` (0).
    pub fn list(&self, alarm: i32) -> Vec<AlarmMember> {
        let all = alarm == AlarmType::None as i32;
        self.raised.iter().filter(|raised| all || raised.1 == alarm).map(|&a| message(a)).collect()
    }

    /// Raises an alarm; whether it was raised before makes no difference to the answer.
    pub(crate) fn activate(
        &mut self,
        member: MemberId,
        alarm: i32,
        table: &Memtable,
    ) -> AlarmMember {
        let raised = message((member, alarm));
        if self.raised.insert((member, alarm)) {
            table.put(schema::ALARM, Bytes::from(raised.encode_to_vec()), Bytes::new());
        }
        raised
    }

    /// Clears an alarm, if it is raised.
    pub(crate) fn deactivate(
        &mut self,
        member: MemberId,
        alarm: i32,
        table: &Memtable,
    ) -> Option<AlarmMember> {
        let cleared = message((member, alarm));
        self.raised.remove(&(member, alarm)).then(|| {
            table.delete(schema::ALARM, Bytes::from(cleared.encode_to_vec()));
            cleared
        })
    }
}
