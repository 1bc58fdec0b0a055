#include "subscriber/activation.hpp"

#include <gtest/gtest.h>

namespace weightcast::subscriber {
namespace {

constexpr std::uint64_t kMiB = 1024 * 1024;

ActivationNeeds needs(Activation wanted, std::uint64_t budget_mib) {
  ActivationNeeds needs;
  needs.wanted = wanted;
  needs.image_bytes = 100 * kMiB;
  needs.bucket_bytes = 8 * kMiB;
  needs.budget = {budget_mib * kMiB, "memory_budget"};
  return needs;
}

bool says(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

struct Case {
  const char* name;
  std::uint64_t budget_mib;
  bool viewable;
  bool fixed;
  Activation expected;
};

class ChosenByBudget : public ::testing::TestWithParam<Case> {};

TEST_P(ChosenByBudget, TakesTheFirstThatIsEligibleAndFits) {
  ActivationNeeds given = needs(Activation::kAuto, GetParam().budget_mib);
  if (!GetParam().viewable) given.why_no_view = "bytes come over tcp";
  given.fixed_addresses = GetParam().fixed;

  const auto choice = choose_activation(given);

  ASSERT_TRUE(choice) << choice.status().to_string();
  EXPECT_EQ(choice->activation, GetParam().expected) << choice->reason;
  EXPECT_LE(choice->bytes, given.budget.bytes);
  EXPECT_TRUE(says(choice->reason, activation_name(GetParam().expected))) << choice->reason;
}

INSTANTIATE_TEST_SUITE_P(
    Cases, ChosenByBudget,
    ::testing::Values(Case{"ViewCostsNothing", 0, true, false, Activation::kView},
                      Case{"FlipWhereTwoFit", 208, false, false, Activation::kFlip},
                      Case{"SerialWhereAByteIsMissing", 207, false, false, Activation::kSerial},
                      Case{"SerialWhereOneFits", 108, false, false, Activation::kSerial},
                      Case{"StagedForFixedAddresses", 208, true, true, Activation::kStaged},
                      Case{"SerialForFixedAddressesInLittle", 150, true, true, Activation::kSerial}),
    [](const auto& given) { return std::string(given.param.name); });

TEST(ActivationChoice, RefusesWithNumbersWhereNotEvenSerialFits) {
  ActivationNeeds given = needs(Activation::kAuto, 107);
  given.why_no_view = "bytes come over tcp";

  const auto choice = choose_activation(given);

  ASSERT_EQ(choice.status().code(), Code::kExhausted);
  for (const char* words : {"serial needs 108 MiB", "one image of 100 MiB", "8 MiB", "107 MiB",
                            "memory_budget", "free memory"}) {
    EXPECT_TRUE(says(choice.status().message(), words)) << words << ": " << choice.status().message();
  }
}

TEST(ActivationChoice, AnExplicitOneIsTakenOrRefusedButNeverReplaced) {
  for (const Activation wanted : {Activation::kFlip, Activation::kStaged}) {
    EXPECT_EQ(choose_activation(needs(wanted, 208))->activation, wanted);
    const auto refused = choose_activation(needs(wanted, 150));
    EXPECT_EQ(refused.status().code(), Code::kExhausted);
    EXPECT_TRUE(says(refused.status().message(), "activation auto takes the first that fits"))
        << refused.status().message();
  }
  EXPECT_EQ(choose_activation(needs(Activation::kSerial, 1000))->activation, Activation::kSerial);
  EXPECT_EQ(choose_activation(needs(Activation::kSerial, 100)).status().code(), Code::kExhausted);
}

TEST(ActivationChoice, RefusesWhatTheVersionOrTheEngineRulesOut) {
  ActivationNeeds view = needs(Activation::kView, 1000);
  view.why_no_view = "tensor 'a' is sharded";
  EXPECT_EQ(choose_activation(view).status().code(), Code::kInvalid);
  EXPECT_TRUE(says(choose_activation(view).status().message(), "tensor 'a' is sharded"));

  for (const Activation moving : {Activation::kView, Activation::kFlip}) {
    ActivationNeeds fixed = needs(moving, 1000);
    fixed.fixed_addresses = true;
    EXPECT_EQ(choose_activation(fixed).status().code(), Code::kInvalid);
    EXPECT_TRUE(says(choose_activation(fixed).status().message(), "fixed addresses"));
  }
}

TEST(ActivationChoice, DoesNotGoBackToWhatFoundNoMemory) {
  ActivationNeeds given = needs(Activation::kAuto, 1000);
  given.why_no_view = "bytes come over tcp";
  given.least = Activation::kStaged;
  given.why_least = "flip failed: no memory";

  const auto choice = choose_activation(given);

  ASSERT_TRUE(choice);
  EXPECT_EQ(choice->activation, Activation::kStaged);
  EXPECT_TRUE(says(choice->reason, "flip failed: no memory")) << choice->reason;
  EXPECT_TRUE(says(choice->reason, "not view, because bytes come over tcp")) << choice->reason;
}

TEST(ActivationBudget, IsTheLeastOfWhatIsConfiguredAndWhatIsThere) {
  staging::MemoryRoom room;
  room.mem_available = 1600 * kMiB;
  EXPECT_EQ(budget_of(0, room, 0).bytes, 1500 * kMiB);
  EXPECT_EQ(budget_of(0, room, 10 * kMiB).bytes, 1510 * kMiB) << "what it has itself counts";
  EXPECT_EQ(budget_of(100 * kMiB, room, 0).bytes, 100 * kMiB);
  EXPECT_EQ(budget_of(100 * kMiB, room, 0).source, "memory_budget");
  EXPECT_EQ(budget_of(9000 * kMiB, room, 0).bytes, 1500 * kMiB);

  room.cgroup_free = 160 * kMiB;
  EXPECT_EQ(budget_of(9000 * kMiB, room, 0).bytes, 150 * kMiB);
  EXPECT_TRUE(says(budget_of(0, room, 0).source, "cgroup"));
}

}  // namespace
}  // namespace weightcast::subscriber
