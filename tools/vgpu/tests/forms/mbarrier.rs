//! `mbarrier`: counts, phases, states, parities, and copies that arrive.

use crate::lanes::run;

/// Results of one warp's body, a column.
fn column(rows: &[[u32; 16]], n: usize) -> Vec<u32> {
    rows.iter().map(|r| r[n]).collect()
}

#[test]
fn counts_and_phases() {
    let body = "setp.eq.u32 %p1, %lane, 0; setp.lt.u32 %p3, %lane, 30;
        @%p1 mbarrier.init.shared.b64 [s], 34; bar.warp.sync -1;
        mbarrier.arrive.shared.b64 %d0, [s]; mbarrier.pending_count.b64 %o0, %d0;
        mbarrier.test_wait.shared.b64 %p2, [s], %d0; selp.u32 %o1, 1, 0, %p2;
        bar.warp.sync -1;
        @%p1 mbarrier.arrive.noComplete.shared.b64 %d1, [s], 1; @%p1 mbarrier.pending_count.b64 %o2, %d1;
        @%p1 mbarrier.arrive.release.cta.shared::cta.b64 _, [s];
        bar.warp.sync -1;
        mbarrier.test_wait.shared.b64 %p2, [s], %d0; selp.u32 %o3, 1, 0, %p2;
        mbarrier.test_wait.parity.shared.b64 %p2, [s], 0; selp.u32 %o4, 1, 0, %p2;
        mbarrier.try_wait.parity.shared.b64 %p2, [s], 1; selp.u32 %o5, 1, 0, %p2;
        @%p1 mbarrier.arrive_drop.noComplete.shared.b64 %d1, [s], 4;
        bar.warp.sync -1;
        @%p3 mbarrier.arrive.shared.b64 %d2, [s]; @%p3 mbarrier.pending_count.b64 %o6, %d2;
        bar.warp.sync -1;
        mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p2, [s], 1, 1000; selp.u32 %o7, 1, 0, %p2;
        @%p1 mbarrier.arrive_drop.shared.b64 %d3, [s]; @%p1 mbarrier.pending_count.b64 %o8, %d3;
        bar.warp.sync -1;
        @%p1 mbarrier.inval.shared.b64 [s]; @%p1 mbarrier.init.shared.b64 [s], 1;
        @%p1 mbarrier.arrive.shared.b64 %d4, [s]; @%p1 mbarrier.try_wait.shared.b64 %p4, [s], %d4; selp.u32 %o9, 1, 0, %p4;";
    let (rows, _) = run(body, &|_, _| 0);
    let first = |v: u32| -> Vec<u32> { (0..32).map(|l| if l == 0 { v } else { 0 }).collect() };
    // 34 expected, and 32 lanes arrive one after the other.
    assert_eq!(
        column(&rows, 0),
        (0..32).map(|l| 34 - l).collect::<Vec<_>>()
    );
    assert_eq!(column(&rows, 1), [0; 32]);
    assert_eq!(column(&rows, 2), first(2));
    // The first phase is over: its state and its parity say so; the second one's does not.
    assert_eq!(column(&rows, 3), [1; 32]);
    assert_eq!(column(&rows, 4), [1; 32]);
    assert_eq!(column(&rows, 5), [0; 32]);
    // Four are dropped; thirty arrive and end the second phase; the third one expects thirty.
    let left = (0..32).map(|l| 30u32.saturating_sub(l));
    assert_eq!(column(&rows, 6), left.collect::<Vec<_>>());
    assert_eq!(column(&rows, 7), [1; 32]);
    assert_eq!(column(&rows, 8), first(30));
    assert_eq!(column(&rows, 9)[0], 1);
}

#[test]
fn copies_arrive() {
    // 32 copies of 4 bytes with an arrival each: with noinc among the 32 expected, without beside one.
    for (form, expected) in [("noinc.", 32), ("", 1)] {
        let body = format!(
            "setp.eq.u32 %p1, %lane, 0; mul.lo.u32 %t0, %lane, 4; mov.u32 %t1, s; add.u32 %t1, %t1, %t0; cvt.u64.u32 %d0, %t0; add.s64 %d0, %d0, %g;
            cvt.u64.u32 %d1, %r0; st.global.u32 [%d0], %r0; bar.warp.sync -1;
            @%p1 mbarrier.init.shared.b64 [s+1024], {expected}; bar.warp.sync -1;
            cp.async.ca.shared.global [%t1], [%d0], 4; cp.async.mbarrier.arrive.{form}shared.b64 [s+1024];
            bar.warp.sync -1;
            {}
            L: mbarrier.test_wait.parity.shared.b64 %p2, [s+1024], 0; @!%p2 bra L;
            xor.b32 %t2, %t0, 4; mov.u32 %t3, s; add.u32 %t3, %t3, %t2; ld.shared.u32 %o0, [%t3];",
            if expected == 1 { "@%p1 mbarrier.arrive.shared.b64 _, [s+1024];" } else { "" }
        );
        let (rows, _) = run(&body, &|l, _| 1000 + l as u32);
        let want: Vec<u32> = (0..32).map(|l| 1000 + (l ^ 1)).collect();
        assert_eq!(column(&rows, 0), want, "{form}");
    }
}
