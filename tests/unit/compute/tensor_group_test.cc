#include "compute/tensor_group.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/counter_rng.h"
#include "tests/support/thread_world.h"

namespace tenax::compute {
namespace {

TEST(OrderedReducer, GivesEveryMemberTheSumsInGroupOrder) {
  const auto value = [](int member, std::size_t i) {
    return CounterRng(7, static_cast<std::uint64_t>(member)).normal(i);
  };
  for (int n = 1; n <= 4; ++n) {
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{1}, std::size_t{17}, std::size_t{1000}}) {
      SCOPED_TRACE(testing::Message() << n << " members, " << size << " floats");
      std::vector<float> expected(size);
      for (std::size_t i = 0; i < size; ++i) {
        expected[i] = value(0, i);
        for (int m = 1; m < n; ++m) expected[i] += value(m, i);
      }
      test::run_world(n, [&](Communicator& comm) {
        const std::vector<int> ranks = test::all_ranks(n);
        OrderedReducer reducer(1000, n);
        for (int repeat = 0; repeat < 2; ++repeat) {
          std::vector<float> data(size);
          for (std::size_t i = 0; i < size; ++i) data[i] = value(comm.rank(), i);
          const Status status = reducer.all_reduce(comm, {ranks, comm.rank()}, 5, data);
          ASSERT_TRUE(status) << status.error().message;
          EXPECT_EQ(data, expected);
        }
      });
    }
  }
}

TEST(OrderedReducer, OfSomeOfTheMembersItWasMadeForFitsItsWorkspace) {
  test::run_world(3, [&](Communicator& comm) {
    OrderedReducer reducer(50, 3);
    std::vector<float> data(50, 1.0f);
    const std::vector<int> ranks = {0, 1};
    if (comm.rank() < 2) {
      ASSERT_TRUE(reducer.all_reduce(comm, {ranks, comm.rank()}, 5, data));
      EXPECT_EQ(data, std::vector<float>(50, 2.0f));
    }
    const std::vector<int> all = test::all_ranks(3);
    EXPECT_TRUE(barrier(comm, {all, comm.rank()}, 6));
  });
}

/// Every length that divides, does not, or is shorter than the group.
TEST(TensorGroup, GivesEachMemberTheSumsOfItsRowsInGroupOrder) {
  constexpr std::int64_t kWidth = 5;
  const auto value = [](int member, std::size_t i) {
    return CounterRng(8, static_cast<std::uint64_t>(member)).normal(i);
  };
  for (int n = 2; n <= 4; ++n) {
    test::run_world(n, [&](Communicator& comm) {
      TensorGroup group(test::all_ranks(n), comm.rank(), 13, kWidth);
      group.use(comm);
      for (const std::int64_t rows : {0, 1, 2, 3, 4, 7, 8, 12, 13}) {
        SCOPED_TRACE(testing::Message() << n << " members, " << rows << " rows");
        std::vector<float> all(static_cast<std::size_t>(rows * kWidth));
        for (std::size_t i = 0; i < all.size(); ++i) all[i] = value(comm.rank(), i);
        group.reduce_scatter_rows(all, kWidth);
        ASSERT_TRUE(group.status()) << group.status().error().message;
        const TokenRows own = token_rows(rows, group.part());
        for (auto i = static_cast<std::size_t>(own.begin * kWidth);
             i < static_cast<std::size_t>(own.end * kWidth); ++i) {
          float sum = value(0, i);
          for (int m = 1; m < n; ++m) sum += value(m, i);
          EXPECT_EQ(all[i], sum) << i;
        }
      }
    });
  }
}

TEST(TensorGroup, GathersTheRowsThatEachMemberHas) {
  constexpr std::int64_t kWidth = 3;
  for (int n = 2; n <= 4; ++n) {
    test::run_world(n, [&](Communicator& comm) {
      TensorGroup group(test::all_ranks(n), comm.rank(), 13, kWidth);
      group.use(comm);
      for (const std::int64_t rows : {0, 1, 2, 3, 5, 8, 13}) {
        SCOPED_TRACE(testing::Message() << n << " members, " << rows << " rows");
        std::vector<float> all(static_cast<std::size_t>(rows * kWidth), -1.0f);
        const TokenRows own = token_rows(rows, group.part());
        for (std::int64_t i = own.begin * kWidth; i < own.end * kWidth; ++i)
          all[static_cast<std::size_t>(i)] = static_cast<float>(i);
        group.gather_rows(all, kWidth);
        ASSERT_TRUE(group.status()) << group.status().error().message;
        for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], static_cast<float>(i));
      }
    });
  }
}

TEST(TensorGroup, KeepsTheErrorOfAnAbortedSumUntilItIsUsedAnew) {
  test::run_world(2, [&](Communicator& comm) {
    TensorGroup group(test::all_ranks(2), comm.rank(), 8, 8);
    group.use(comm);
    std::vector<float> data(64, 1.0f);
    group.reduce_scatter_rows(data, 8);
    EXPECT_TRUE(group.status());
    comm.abort("enough");
    group.reduce_scatter_rows(data, 8);
    ASSERT_FALSE(group.status());
    EXPECT_EQ(group.status().error().code, ErrorCode::kAborted);
    const std::vector<float> garbage = data;
    group.reduce_scatter_rows(data, 8);  // nothing is sent any more
    EXPECT_EQ(data, garbage);
    group.use(comm);
    EXPECT_TRUE(group.status());
  });
}

}  // namespace
}  // namespace tenax::compute
