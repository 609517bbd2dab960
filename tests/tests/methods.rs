//! How a machine goes down: what logind is told by each method, old and new.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use rebootlock::config::RebootMethod;
use rebootlock::config::variables::Template;
use rebootlock_tests::machine::logind::InhibitorRule;
use rebootlock_tests::machine::{Machine, Systemd};
use rebootlockd::logind::{Depth, Logind, OrderError};
use rebootlockd::method::{Method, MethodError, Order};
use tokio::time::Instant;

async fn machine(rule: InhibitorRule) -> (Machine, Logind) {
    let machine = Machine::new("0123456789abcdef0123456789abcdef").await.unwrap();
    machine.logind.set_inhibitor_rule(rule);
    let logind = Logind::on(machine.bus.connect().await.unwrap()).await.unwrap();
    (machine, logind)
}

fn flags(machine: &Machine) -> Vec<u64> {
    machine.logind.reboot_calls().iter().map(|call| call.flags).collect()
}

#[tokio::test]
async fn each_depth_is_asked_for_by_its_flag() {
    for (depth, expected) in [(Depth::Full, 1), (Depth::Kexec, 3), (Depth::Soft, 5)] {
        let (machine, logind) = machine(InhibitorRule::Systemd257).await;
        logind.say_why("an update\u{1b}[2J").await;
        logind.order(depth, false).await.unwrap();
        assert_eq!(flags(&machine), [expected]);
        let call = machine.logind.reboot_calls().remove(0);
        let said = call.wall_message.unwrap();
        assert_eq!(said, "an update\u{fffd}[2J", "nobody writes to terminals by it");
    }
}

#[tokio::test]
async fn an_old_logind_refuses_a_soft_reboot_and_nothing_goes_down() {
    let (machine, logind) = machine(InhibitorRule::Systemd252).await;
    let error = logind.order(Depth::Soft, false).await.unwrap_err();
    assert!(matches!(error, OrderError::TooOld("soft reboot", 254)), "{error}");
    let method = Method::new(RebootMethod::SoftReboot);
    let error = method.order(&logind, &Order::default(), &mut |_| ()).await.unwrap_err();
    assert!(matches!(error, MethodError::Impossible(_)), "{error}");
    assert_eq!(machine.logind.reboots(), 0);
}

#[tokio::test]
async fn an_inhibitor_is_passed_over_by_force_alone() {
    for (rule, expected) in [(InhibitorRule::Systemd257, 16), (InhibitorRule::Systemd252, 0)] {
        let (machine, logind) = machine(rule).await;
        let block = machine.logind.add_inhibitor_of("shutdown", "backup", "busy", "block", 1000);
        block.await.unwrap();
        logind.order(Depth::Full, false).await.unwrap_err();
        assert_eq!(machine.logind.reboots(), 0);
        logind.order(Depth::Full, true).await.unwrap();
        assert_eq!(flags(&machine), [expected]);
    }
}

#[tokio::test]
async fn where_polkit_is_missing_force_goes_round_logind_and_without_force_nothing_does() {
    for rule in [InhibitorRule::Systemd257WithoutPolkit, InhibitorRule::Systemd257WithBrokenPolkit]
    {
        let (machine, logind) = machine(rule).await;
        let systemd = Systemd::new(machine.bus.address());
        systemd.start().await.unwrap();
        let block =
            machine.logind.add_inhibitor("shutdown", "backup", "busy", "block").await.unwrap();
        for (method, target) in [
            (RebootMethod::Logind, "reboot.target"),
            (RebootMethod::SoftReboot, "soft-reboot.target"),
        ] {
            let method = Method::new(method);
            let error = method.order(&logind, &Order::default(), &mut |_| ()).await.unwrap_err();
            assert!(matches!(error, MethodError::Logind(_)), "{error}");
            let before = systemd.targets().len();
            let forced = Order { force: true, ..Order::default() };
            method.order(&logind, &forced, &mut |_| ()).await.unwrap();
            let started = (target.to_owned(), "replace-irreversibly".to_owned());
            assert_eq!(systemd.targets().split_off(before), [started]);
        }
        assert_eq!(machine.logind.reboots(), 0);
        // Nothing in the way: logind does it.
        machine.logind.remove_inhibitor(block).await.unwrap();
        let forced = Order { force: true, ..Order::default() };
        Method::new(RebootMethod::Logind).order(&logind, &forced, &mut |_| ()).await.unwrap();
        assert_eq!((flags(&machine), systemd.targets().len()), (vec![16], 2));
        // And while it does, nothing else is begun.
        let error = Method::new(RebootMethod::Logind).order(&logind, &forced, &mut |_| ()).await;
        assert!(matches!(error, Err(MethodError::Logind(_))), "{error:?}");
        assert_eq!(systemd.targets().len(), 2);
    }
}

#[tokio::test]
async fn a_forced_order_goes_round_logind_only_while_its_permit_is_fresh() {
    let (machine, logind) = machine(InhibitorRule::Systemd257WithBrokenPolkit).await;
    let systemd = Systemd::new(machine.bus.address());
    systemd.start().await.unwrap();
    machine.logind.add_inhibitor("shutdown", "backup", "busy", "block").await.unwrap();
    let until = Some(Instant::now() + Duration::from_millis(400));
    let forced = Order { force: true, until, ..Order::default() };
    Method::new(RebootMethod::Logind).order(&logind, &forced, &mut |_| ()).await.unwrap();
    assert!(Some(Instant::now()) < until, "half of the time was left for systemd");
    assert_eq!(systemd.targets().len(), 1);
}

#[tokio::test]
async fn kexec_without_a_kernel_is_refused_before_logind_hears_of_it() {
    let (machine, logind) = machine(InhibitorRule::Systemd257).await;
    let file = machine.dir().join("kexec_loaded");
    std::fs::write(&file, "0\n").unwrap();
    let method = Method::new(RebootMethod::Kexec).with_kexec_file(file.clone());
    assert!(matches!(method.check().await, Err(MethodError::Impossible(_))));
    let error = method.order(&logind, &Order::default(), &mut |_| ()).await.unwrap_err();
    assert!(matches!(error, MethodError::Impossible(_)), "{error}");
    assert_eq!(machine.logind.attempts(), 0);
    std::fs::write(&file, "1\n").unwrap();
    method.order(&logind, &Order::default(), &mut |_| ()).await.unwrap();
    assert_eq!(flags(&machine), [3]);
}

#[tokio::test]
async fn an_order_that_comes_too_late_is_not_given() {
    let (machine, logind) = machine(InhibitorRule::Systemd257).await;
    let written = machine.dir().join("ordered").display().to_string();
    let argv =
        ["/bin/sh", "-c", &format!("touch {written}")].map(|text| Template::parse(text).unwrap());
    let command = RebootMethod::Command { argv: argv.into(), timeout: Duration::from_secs(9) };
    let too_late = Order { until: Some(Instant::now()), ..Order::default() };
    for method in [RebootMethod::Logind, command] {
        let method = Method::new(method);
        let error = method.order(&logind, &too_late, &mut |_| ()).await.unwrap_err();
        assert!(matches!(error, MethodError::TooLate), "{error}");
    }
    assert_eq!(machine.logind.attempts(), 0);
    assert!(!std::path::Path::new(&written).exists());
}
