#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>

#include "unit/nccl_session_fixture.hpp"

namespace weightcast::transport {
namespace {

using Phase = SessionGuest::Phase;
using HostAction = SessionHost::Action;
constexpr std::uint32_t kBuckets = 20;

constexpr std::uint64_t kVersions = 5;

/// A source and receivers over a network that loses and delays, flows that fail where a member dies or
/// does not come, aborts that take a while, and communicators that are kept between versions and end
/// on one side or the other. Some share places: a leader hands on what comes to its neighbours, and puts
/// out one that is late.
class Simulation {
 public:
  explicit Simulation(std::uint64_t seed) : random_(seed) {
    options_.is_p2p = chance(0.3);
    const int count = static_cast<int>(below(6)) + 1;
    options_.expected = chance(0.5) ? static_cast<std::uint32_t>(count) : 0;
    options_.failures = 4;
    options_.keep = static_cast<std::uint32_t>(below(4));
    loss_ = chance(0.5) ? 0.1 : 0;
    host_ = std::make_unique<SessionHost>(options_);
    for (int i = 0; i < count; ++i) {
      Guest guest;
      if (chance(0.6)) guest.place = "place" + std::to_string(below(3));
      if (chance(0.25)) guest.dies_at = now_ + std::chrono::milliseconds(below(3000));
      guests_.push_back(std::move(guest));
    }
  }

  void run() {
    for (std::uint64_t version = 1; version <= kVersions; ++version) {
      begin(version);
      run_version();
      if (::testing::Test::HasFailure()) return;
      whole_versions_ += all_living_are_done() ? 1 : 0;
    }
  }
  /// In which all of those who lived got all buckets.
  std::size_t whole_versions() const { return whole_versions_; }
  /// Sessions that went on in a communicator of before.
  std::size_t reused() const { return reused_; }
  std::size_t sessions() const { return sessions_; }
  /// Times that an engine got a version's last buckets from its leader.
  std::size_t handed_on() const { return handed_on_; }
  std::size_t put_out() const { return put_out_; }
  std::size_t deaths() const {
    return static_cast<std::size_t>(std::count_if(guests_.begin(), guests_.end(),
                                                  [](const Guest& g) { return g.is_dead; }));
  }

 private:
  static constexpr auto kJoin = std::chrono::seconds(10);
  struct Guest {
    std::unique_ptr<SessionGuest> machine;
    Clock::time_point comes_at;
    Clock::time_point dies_at = Clock::time_point::max();
    bool is_dead = false;
    std::uint32_t have = 0;
    std::uint64_t in_flow = 0;
    std::uint64_t kept = 0;  ///< session whose communicator it has
    std::string place;
    std::optional<std::size_t> leader;  ///< it is in the flow as that one's neighbour
    Clock::time_point since{};
    Clock::time_point rests_until = Clock::time_point::max();
  };
  struct Flow {
    std::uint64_t session = 0;
    std::uint64_t kept = 0;
    bool keeps = false;
    std::vector<std::size_t> members;
    std::uint32_t next = 0;
    Clock::time_point since;
    bool is_failed = false;
  };

  void begin(std::uint64_t version) {
    host_->offer(offer_of(version), now_);
    for (HostAction& action : host_->take_actions()) act(action);
    for (std::size_t i = 0; i < guests_.size(); ++i) {
      Guest& guest = guests_[i];
      if (guest.in_flow != 0) fail(guest);
      if (chance(0.05)) guest.kept = 0;  // NCCL saw an error, or it began a new life
      SessionAsk ask = ask_of(static_cast<int>(i), version);
      ask.incarnation = version;
      ask.place = guest.place;
      if (!guest.place.empty()) ask.board = ask.name;
      ask.kept = guest.kept;
      ask.may_keep = !chance(0.05);
      ask.is_ready = guest.rests_until == Clock::time_point::max();
      guest.machine = std::make_unique<SessionGuest>(options_, ask, now_);
      guest.comes_at = now_ + std::chrono::milliseconds(below(200));
      guest.have = 0;
    }
    if (!communicators_.empty() && chance(0.05)) {  // the source saw one
      host_->kept_lost(communicators_.begin()->first);
      communicators_.erase(communicators_.begin());
    }
  }
  void run_version() {
    const auto end = now_ + std::chrono::seconds(200);
    while (now_ < end && !all_ended()) turn();
    EXPECT_TRUE(all_ended()) << "somebody waits for ever";
    for (const Guest& guest : guests_) {
      if (guest.is_dead) continue;
      if (guest.machine->phase() == Phase::kDone) {
        EXPECT_EQ(guest.have, kBuckets);
      } else {
        EXPECT_NE(guest.machine->status().code(), Code::kOk);
      }
    }
    EXPECT_LE(host_->kept().size(), options_.keep);
  }
  bool all_living_are_done() const {
    return std::all_of(guests_.begin(), guests_.end(), [](const Guest& guest) {
      return guest.is_dead || guest.machine->phase() == Phase::kDone;
    });
  }

  std::uint64_t below(std::uint64_t n) { return random_() % n; }
  bool chance(double p) { return std::uniform_real_distribution<>(0, 1)(random_) < p; }

  bool all_ended() const {
    return std::all_of(guests_.begin(), guests_.end(), [](const Guest& g) {
      return g.is_dead || g.machine->phase() == Phase::kDone ||
             g.machine->phase() == Phase::kFailed;
    });
  }

  void turn() {
    now_ += std::chrono::milliseconds(1);
    for (Guest& guest : guests_) {
      if (now_ >= guest.dies_at) guest.is_dead = true;
      if (guest.is_dead || now_ < guest.comes_at) continue;
      if (now_ >= guest.rests_until) {
        guest.machine->rested(now_);
        guest.rests_until = Clock::time_point::max();
      }
      if (const auto ask = guest.machine->next_ask(now_); ask && !chance(loss_)) {
        const SessionAnswer answer = host_->ask(*ask, now_);
        if (!chance(loss_)) guest.machine->answered(answer, now_);
        if (guest.machine->phase() == Phase::kFlowing) {
          const SessionAnswer& go = guest.machine->go();
          guest.in_flow = go.session;
          guest.since = now_;
          if (!go.board.empty()) {
            come_to_leader(guest, go);
          } else if (go.kept != 0 && go.kept != guest.kept) {
            fail(guest);
          }
        }
      }
      if (guest.leader && guest.in_flow != 0) look_at_leader(guest);
      // It came too late: nobody is in that communicator, or the others wait for somebody.
      const bool is_ranked = guest.in_flow != 0 && !guest.leader;
      if (is_ranked && now_ - guest.since > kJoin && !is_running(guest.in_flow)) {
        fail(guest);
      }
    }
    host_->tick(now_);
    for (HostAction& action : host_->take_actions()) act(action);
    bring_on();
  }

  bool is_running(std::uint64_t session) const {
    return flow_ && !host_rests_until_ && flow_->session == session && flow_->next > 0;
  }
  /// Its ring has four buckets: it has waited for this one, or put it out.
  void come_to_leader(Guest& guest, const SessionAnswer& go) {
    guest.leader = static_cast<std::size_t>(std::stoi(go.board.substr(6)));
    guest.kept = 0;
    EXPECT_EQ(guests_[*guest.leader].place, guest.place);
    EXPECT_LE(go.first, guest.have) << "a bucket is left out";
    if (flow_ && flow_->session == go.session && flow_->next > go.first + 4) {
      ++put_out_;
      fail(guest);
    }
  }
  void look_at_leader(Guest& guest) {
    const bool is_led = flow_ && flow_->session == guest.in_flow && !flow_->is_failed &&
                        !host_rests_until_ && !guests_[*guest.leader].is_dead;
    const bool is_put_out = chance(0.001);
    put_out_ += is_put_out ? 1 : 0;
    if (!is_led || is_put_out) return fail(guest);
    guest.have = std::max(guest.have, flow_->next);
  }
  void fail(Guest& guest) {
    guest.in_flow = 0;
    guest.kept = 0;
    guest.rests_until =
        now_ + (guest.leader ? std::chrono::milliseconds(1) : std::chrono::milliseconds(below(1700)));
    guest.leader.reset();
    guest.machine->flow_ended({Code::kUnavailable, "a member is gone"}, guest.have, now_);
  }

  void act(const HostAction& action) {
    switch (action.kind) {
      case HostAction::Kind::kMakeId:
        host_->id_made(action.session, id_of(action.session), now_);
        for (HostAction& next : host_->take_actions()) act(next);
        return;
      case HostAction::Kind::kStart: {
        ASSERT_FALSE(flow_) << "two flows on one GPU";
        Flow flow{action.session, action.kept, action.keeps, {}, action.first, now_};
        ++sessions_;
        if (action.kept != 0) {
          ++reused_;
          ASSERT_TRUE(communicators_.contains(action.kept)) << "the source has none of that";
          EXPECT_EQ(communicators_.at(action.kept), action.receivers) << "ranks have changed";
          communicators_.erase(action.kept);
        }
        std::set<std::string> places;
        for (const std::string& name : action.receivers) {
          flow.members.push_back(static_cast<std::size_t>(std::stoi(name.substr(6))));
          EXPECT_LE(action.first, guests_[flow.members.back()].have) << "a bucket is left out";
          const std::string& place = guests_[flow.members.back()].place;
          EXPECT_TRUE(place.empty() || places.insert(place).second) << "two ranks of " << place;
        }
        flow_ = std::move(flow);
        return;
      }
      case HostAction::Kind::kAbort:
        if (flow_) flow_->is_failed = true;
        return;
      case HostAction::Kind::kDrop:
        EXPECT_EQ(communicators_.erase(action.session), 1u);
        return;
    }
  }

  void bring_on() {
    if (host_rests_until_ && now_ >= *host_rests_until_) {
      host_rests_until_.reset();
      const std::uint64_t session = flow_->session;
      flow_.reset();
      host_->flow_ended(session, {Code::kUnavailable, "a member is gone"}, now_);
      return;
    }
    if (!flow_ || host_rests_until_) return;
    bool all_here = true;
    for (const std::size_t i : flow_->members) {
      const Guest& guest = guests_[i];
      flow_->is_failed = flow_->is_failed || guest.is_dead;
      all_here = all_here && guest.in_flow == flow_->session;
    }
    if (!all_here && now_ - flow_->since > kJoin) flow_->is_failed = true;
    if (flow_->is_failed) {
      for (const std::size_t i : flow_->members) {
        Guest& guest = guests_[i];
        if (guest.is_dead || guest.in_flow != flow_->session) continue;
        fail(guest);
      }
      host_->flow_failing(flow_->session);
      host_rests_until_ = now_ + std::chrono::milliseconds(below(1700));
      return;
    }
    if (!all_here) return;
    for (const std::size_t i : flow_->members) {
      EXPECT_TRUE(flow_->kept == 0 || guests_[i].kept == flow_->kept) << "two communicators";
    }
    if (flow_->next < kBuckets && chance(0.2)) {
      for (const std::size_t i : flow_->members) {
        guests_[i].have = std::max(guests_[i].have, flow_->next + 1);
      }
      ++flow_->next;
    }
    if (flow_->next < kBuckets) return;
    const std::uint64_t session = flow_->session;
    const std::uint64_t keep = !flow_->keeps ? 0 : flow_->kept != 0 ? flow_->kept : session;
    if (keep != 0) {
      for (const std::size_t i : flow_->members) communicators_[keep].push_back(ask_of(int(i)).name);
    }
    for (const std::size_t i : flow_->members) {
      guests_[i].in_flow = 0;
      guests_[i].kept = keep;
      guests_[i].machine->flow_ended({}, kBuckets, now_);
    }
    for (Guest& guest : guests_) {
      if (guest.is_dead || !guest.leader || guest.in_flow != session) continue;
      ++handed_on_;
      guest.have = kBuckets;
      guest.in_flow = 0;
      guest.leader.reset();
      guest.machine->flow_ended({}, kBuckets, now_);
    }
    flow_.reset();
    host_->flow_ended(session, {}, now_);
  }

  std::mt19937_64 random_;
  SessionOptions options_;
  double loss_ = 0;
  Clock::time_point now_{std::chrono::hours(1)};
  std::unique_ptr<SessionHost> host_;
  std::vector<Guest> guests_;
  std::optional<Flow> flow_;
  std::optional<Clock::time_point> host_rests_until_;
  std::map<std::uint64_t, std::vector<std::string>> communicators_;  ///< that the source keeps
  std::size_t whole_versions_ = 0;
  std::size_t reused_ = 0;
  std::size_t sessions_ = 0;
  std::size_t handed_on_ = 0;
  std::size_t put_out_ = 0;
};

TEST(SessionSimulationTest, WhoLivesEndsWhateverIsLostAndWhoeverDies) {
  const std::uint64_t base = std::random_device{}();
  std::size_t whole = 0;
  std::size_t deaths = 0;
  std::size_t sessions = 0;
  std::size_t reused = 0;
  std::size_t handed_on = 0;
  std::size_t put_out = 0;
  for (std::uint64_t i = 0; i < 400; ++i) {
    SCOPED_TRACE("seed " + std::to_string(base + i));
    Simulation simulation(base + i);
    simulation.run();
    if (HasFailure()) return;
    whole += simulation.whole_versions();
    deaths += simulation.deaths();
    sessions += simulation.sessions();
    reused += simulation.reused();
    handed_on += simulation.handed_on();
    put_out += simulation.put_out();
  }
  EXPECT_GT(deaths, 10u);
  EXPECT_GT(whole, 350u * kVersions) << "others than the dead were sent to another transport";
  EXPECT_GT(reused, sessions / 8) << "of " << sessions;
  EXPECT_GT(handed_on, 200u);
  EXPECT_GT(put_out, 20u);
}

}  // namespace
}  // namespace weightcast::transport
