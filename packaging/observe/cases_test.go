package observe

// alertCase is what Prometheus has seen, by series, in promtool's notation of a value a minute, and what comes of it at a time.
type alertCase struct {
	series map[string]string
	at     string
	labels string // of the alert, besides job, instance and severity; those without a value have the standing one
	says   string // its summary, without the instance; "" for no alert
}

// alertCases are the cases of each rule. A line that fires is true from the first minute.
var alertCases = map[string][]alertCase{
	"UnderstudyRPOMissed": {
		{map[string]string{"understudy_agent_rpo_seconds": "61x10", "understudy_agent_interval_seconds": "5x10"}, "5m", "disk device", "the newest point of /dev/sda is 1m 1s old"},
		{map[string]string{"understudy_agent_rpo_seconds": "59x10", "understudy_agent_interval_seconds": "5x10"}, "5m", "", ""},
		{map[string]string{"understudy_agent_rpo_seconds": "599x10", "understudy_agent_interval_seconds": "60x10"}, "5m", "", ""},
		{map[string]string{"understudy_agent_rpo_seconds": "601x10", "understudy_agent_interval_seconds": "60x10"}, "5m", "disk device", "the newest point of /dev/sda is 10m 1s old"},
	},
	"UnderstudyCopyStale": {
		{map[string]string{"understudy_receiver_last_consistent_point_timestamp_seconds": "60x40", `understudy_receiver_disk_info{device="/dev/sda"}`: "1x40"}, "20m", "disk host device", "the newest point of web1:/dev/sda is 19m 0s old"},
		{map[string]string{"understudy_receiver_last_consistent_point_timestamp_seconds": "0+60x40", `understudy_receiver_disk_info{device="/dev/sda"}`: "1x40"}, "20m", "", ""},
	},
	"UnderstudyNotProtected": {
		{map[string]string{`understudy_agent_disk_state{state="waiting"}`: "1x10"}, "6m", "disk device state=waiting", "/dev/sda is not protected"},
		{map[string]string{`understudy_agent_disk_state{state="waiting"}`: "0x10", `understudy_agent_disk_state{state="protected"}`: "1x10"}, "6m", "", ""},
	},
	"UnderstudyFenced": {
		{map[string]string{`understudy_agent_disk_state{state="fenced"}`: "1x10"}, "1m", "disk device state=fenced", "/dev/sda is fenced off"},
		{map[string]string{`understudy_agent_disk_state{state="fenced"}`: "0x10", `understudy_agent_disk_state{state="waiting"}`: "1x10"}, "1m", "", ""},
	},
	"UnderstudyPointsFuzzy": {
		{map[string]string{`understudy_agent_points_total{class="fuzzy",proven="true"}`: "0+10x60", "understudy_agent_resync_active": "0x60"}, "40m", "disk device class=fuzzy proven=true", "points of /dev/sda are no instants"},
		{map[string]string{`understudy_agent_points_total{class="fuzzy",proven="false"}`: "0+10x60", "understudy_agent_resync_active": "1x60"}, "40m", "", ""},
		{map[string]string{`understudy_agent_points_total{class="crash",proven="true"}`: "0+10x60"}, "40m", "", ""},
	},
	"UnderstudyUnproven": {
		{map[string]string{"understudy_agent_unproven": "1x90"}, "61m", "disk device", "points of /dev/sda have been unproven for an hour"},
		{map[string]string{"understudy_agent_unproven": "1x40 0 1x40"}, "80m", "", ""},
	},
	"UnderstudyResyncLong": {
		{map[string]string{"understudy_agent_resync_active": "1x900"}, "721m", "disk device", "/dev/sda has been compared with its copy for 12 hours"},
		{map[string]string{"understudy_agent_resync_active": "1x700 0x200"}, "721m", "", ""},
	},
	"UnderstudySyncLong": {
		{map[string]string{`understudy_agent_disk_state{state="syncing"}`: "1x900"}, "721m", "disk device state=syncing", "/dev/sda has been sending its first sync, or a backlog, for 12 hours"},
		{map[string]string{`understudy_agent_disk_state{state="syncing"}`: "1x700 0x200"}, "721m", "", ""},
	},
	"UnderstudyNotConverging": {
		{map[string]string{"understudy_agent_converging": "0x20"}, "11m", "disk device", "/dev/sda is written faster than it can be copied"},
		{map[string]string{"understudy_agent_converging": "1x20"}, "11m", "", ""},
	},
	"UnderstudyHookFailing": {
		{map[string]string{`understudy_agent_hook_failures_total{hook="pre-freeze"}`: "0x10 1x30"}, "20m", "application hook=pre-freeze", "the pre-freeze hook of db fails"},
		{map[string]string{`understudy_agent_hook_failures_total{hook="pre-freeze"}`: "7x200"}, "90m", "", ""},
	},
	"UnderstudyMismatch": {
		{map[string]string{"understudy_agent_verify_last_mismatch_timestamp_seconds": "0x100"}, "60m", "disk device", "the copy of /dev/sda was not what the disk is"},
		{map[string]string{"understudy_agent_verify_last_mismatch_timestamp_seconds": "0x1600"}, "1450m", "", ""},
		{map[string]string{"understudy_agent_verify_mismatches_total": "0x100"}, "60m", "", ""},
	},
	"UnderstudyVerifyOverdue": {
		{map[string]string{"understudy_agent_verify_every_seconds": "600x200", "understudy_agent_verify_last_full_timestamp_seconds": "0x200", "understudy_agent_verify_round_started_timestamp_seconds": "0+60x200"}, "90m", "disk device", "/dev/sda has not been verified for 1h 30m 0s"},
		{map[string]string{"understudy_agent_verify_every_seconds": "600x200", "understudy_agent_verify_round_started_timestamp_seconds": "0x200"}, "90m", "disk device", "/dev/sda has not been verified for 1h 30m 0s"},
		{map[string]string{"understudy_agent_verify_every_seconds": "600x200", "understudy_agent_verify_last_full_timestamp_seconds": "0+60x200"}, "90m", "", ""},
		{map[string]string{"understudy_agent_verify_every_seconds": "-1x200", "understudy_agent_verify_last_full_timestamp_seconds": "0x200"}, "90m", "", ""},
	},
	"UnderstudyTrackerShortfalls": {
		{map[string]string{"understudy_agent_audit_shortfalls_total": "0+1x5 5x100"}, "30m", "disk device", "the tracker of /dev/sda fell short 5 times in a day"},
		{map[string]string{"understudy_agent_audit_shortfalls_total": "0+1x2 2x100"}, "30m", "", ""},
	},
	"UnderstudyJournalDamaged": {
		{map[string]string{"understudy_receiver_damaged": "1x10", `understudy_receiver_disk_info{device="/dev/sda"}`: "1x10"}, "2m", "disk host device", "the journal of web1:/dev/sda is damaged"},
		{map[string]string{"understudy_receiver_damaged": "0x10", `understudy_receiver_disk_info{device="/dev/sda"}`: "1x10"}, "2m", "", ""},
	},
	"UnderstudyDamagedFrames": {
		{map[string]string{"understudy_receiver_damaged_frames_total": "0x10 1x30"}, "20m", "disk host", "data of web1 arrived damaged"},
		{map[string]string{"understudy_receiver_damaged_frames_total": "3x200"}, "90m", "", ""},
	},
	"UnderstudyAgentDown": {
		{map[string]string{`up`: "0x10"}, "6m", "", "the agent does not answer"},
		{map[string]string{`up`: "0x3 1x7"}, "6m", "", ""},
	},
	"UnderstudyNotLinked": {
		{map[string]string{"understudy_agent_link_up": "0x10"}, "6m", "", "the agent has no link to its receiver"},
		{map[string]string{"understudy_agent_link_up": "1x10"}, "6m", "", ""},
	},
	"UnderstudyLinkFlapping": {
		{map[string]string{`understudy_agent_dials_total{outcome="linked"}`: "1+1x60"}, "60m", "outcome=linked", "the link was made 60 times in an hour"},
		{map[string]string{`understudy_agent_dials_total{outcome="linked"}`: "1x60 5x60"}, "90m", "", ""},
		{map[string]string{`understudy_agent_dials_total{outcome="failed"}`: "1+1x60"}, "60m", "", ""},
	},
	"UnderstudyFreezeOverBudget": {
		{map[string]string{
			`understudy_agent_freeze_seconds_bucket{le="0.1"}`: "0x60", `understudy_agent_freeze_seconds_bucket{le="0.15"}`: "0+10x60",
			`understudy_agent_freeze_seconds_bucket{le="+Inf"}`: "0+10x60", "understudy_agent_freeze_budget_seconds": "0.05x60",
		}, "40m", "", "writes are held up for 147.5ms, twice the budget and more"},
		{map[string]string{
			`understudy_agent_freeze_seconds_bucket{le="0.05"}`: "0+10x60", `understudy_agent_freeze_seconds_bucket{le="0.15"}`: "0+10x60",
			`understudy_agent_freeze_seconds_bucket{le="+Inf"}`: "0+10x60", "understudy_agent_freeze_budget_seconds": "0.05x60",
		}, "40m", "", ""},
	},
	"UnderstudyGuardThawed": {
		{map[string]string{"understudy_agent_guard_thaws_total": "0x20 2x40"}, "60m", "", "the guard had to end 2 freezes in an hour"},
		{map[string]string{"understudy_agent_guard_thaws_total": "4x200"}, "90m", "", ""},
	},
	"UnderstudyFrozen": {
		{map[string]string{"understudy_agent_frozen_seconds": "6x10"}, "2m", "", "file systems have been frozen for 6s"},
		{map[string]string{"understudy_agent_frozen_seconds": "0.1x10"}, "2m", "", ""},
	},
	"UnderstudyReceiverDown": {
		{map[string]string{`up{job="understudy-receiver"}`: "0x10"}, "3m", "", "the receiver does not answer"},
		{map[string]string{`up{job="understudy-receiver"}`: "1x10"}, "3m", "", ""},
	},
	"UnderstudySpaceLow": {
		{map[string]string{"understudy_receiver_space_free_bytes": "9x20", "understudy_receiver_space_bytes": "100x20"}, "11m", "", "9% of the receiver's space is left"},
		{map[string]string{"understudy_receiver_space_free_bytes": "11x20", "understudy_receiver_space_bytes": "100x20"}, "11m", "", ""},
	},
	"UnderstudySpaceOut": {
		{map[string]string{"understudy_receiver_space_free_bytes": "1x20", "understudy_receiver_space_bytes": "100x20"}, "11m", "", "the receiver's space runs out within hours"},
		{map[string]string{"understudy_receiver_space_free_bytes": "200000-1000x60", "understudy_receiver_space_bytes": "1000000x60"}, "60m", "", "the receiver's space runs out within hours"},
		{map[string]string{"understudy_receiver_space_free_bytes": "500000-10x60", "understudy_receiver_space_bytes": "1000000x60"}, "60m", "", ""},
	},
	"UnderstudyRetentionFailing": {
		{map[string]string{"understudy_receiver_retention_failures_total": "0+1x90"}, "60m", "disk host", "the journal of web1's disk d1 can't be thinned out"},
		{map[string]string{"understudy_receiver_retention_failures_total": "0x10 1x90"}, "60m", "", ""},
	},
	"UnderstudyTurnedAway": {
		{map[string]string{`understudy_receiver_turned_away_total{carrier="tcp",reason="handshake"}`: "0+120x60"}, "40m", "", "2 peers a second are turned away"},
		{map[string]string{`understudy_receiver_turned_away_total{carrier="tcp",reason="handshake"}`: "0+30x60"}, "40m", "", ""},
	},
	"UnderstudyCertificateNotRenewed": {
		{map[string]string{"understudy_certificate_due_timestamp_seconds": "-40000x60", "understudy_certificate_expiry_timestamp_seconds": "100000x60"}, "10m", "", "the certificate is due, and was not renewed"},
		{map[string]string{"understudy_certificate_due_timestamp_seconds": "-30000x60", "understudy_certificate_expiry_timestamp_seconds": "100000x60"}, "10m", "", ""},
	},
	"UnderstudyCertificateExpires": {
		{map[string]string{"understudy_certificate_due_timestamp_seconds": "-40000x60", "understudy_certificate_expiry_timestamp_seconds": "4200x60"}, "10m", "", "the certificate expires in 1h 0m 0s"},
		{map[string]string{"understudy_certificate_due_timestamp_seconds": "-40000x60", "understudy_certificate_expiry_timestamp_seconds": "20000x60"}, "10m", "", ""},
	},
	"UnderstudyCAExpires": {
		{map[string]string{"understudy_ca_expiry_timestamp_seconds": "867600x90"}, "60m", "", "a CA that it trusts expires in 10d 0h 0m 0s"},
		{map[string]string{"understudy_ca_expiry_timestamp_seconds": "9000000x90"}, "60m", "", ""},
	},
}
