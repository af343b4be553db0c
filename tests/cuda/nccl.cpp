/* NCCL's point to point on emulated devices, with what makes the real one easy to hang: the groups of a communicator
 * run one after another, on whichever streams; a group begins when its stream reaches it and is over when every
 * operation of it has met its peer's; the first group of a communicator does not return before the peer's host has come
 * to one; a nonblocking communicator says ncclInProgress, and takes no other call until it has been asked again.
 *
 * What hangs a real one is an error here: operations that wait for one another for ever, once nothing has happened for
 * as long as emulation_patience says; and misuse at once: memory of another device, two ranks on one, a communicator
 * that ends with work under way. */
#include "nccl.h"

#include <deque>
#include <map>
#include <memory>
#include <string.h>
#include <string>
#include <vector>

#include "emulation.h"
#include "runtime.h"

struct Group;

/* A send or receive of a group. */
struct Operation {
  Group *group;
  bool is_send;
  int peer;
  char *data;
  size_t bytes;
};

/* What ranks of one communicator share. */
struct Clique {
  std::vector<struct Member *> members;                       /* by rank; NULL: not there yet, or gone */
  std::map<std::pair<int, int>, std::deque<Operation>> waits; /* [from, to]: all sends, or all receives */
  int joined = 0;
};

/* One rank of a communicator. Groups that are on streams may outlive it. */
struct Member {
  std::shared_ptr<Clique> clique;
  int rank, device;
  bool blocking, aborted = false, dead = false, finalized = false;
  ncclResult_t error = ncclSuccess; /* found out asynchronously */
  std::string text;
  std::deque<std::shared_ptr<Group>> groups;   /* on streams, not over */
  std::vector<std::shared_ptr<Group>> delayed; /* not on their streams yet */
  bool called = false, connected = false;      /* some group was ended; the peers', too */
  int answers = 0;                             /* how often it is in progress for no reason */
};

struct ncclComm {
  std::shared_ptr<Member> member;
};

struct Group {
  std::shared_ptr<Member> member;
  cudaStream_t stream;
  uint64_t number = 0; /* on the stream */
  std::vector<Operation> operations;
  bool begun = false;
  size_t left = 0;
};

static std::map<std::string, std::shared_ptr<Clique>> cliques;
static int next_id, n_groups;
static thread_local int depth;
static thread_local std::vector<std::shared_ptr<Group>> open_groups;

int emulation_nccl_groups(void) {
  EmulatedLock held = emulated_lock();
  return n_groups;
}

static ncclResult_t refuse(Member *member, const char *text) {
  member->text = text;
  return ncclInvalidUsage;
}

static void fail_later(Member *member, ncclResult_t error, const char *text) {
  if (member->error)
    return;
  member->error = error;
  member->text = text;
}

void emulation_nccl_kill(int device) {
  EmulatedLock held = emulated_lock();
  for (auto &entry : cliques)
    for (Member *member : entry.second->members)
      if (member && member->device == device)
        member->dead = true;
  for (auto &entry : cliques)
    for (Member *member : entry.second->members)
      for (Member *peer : entry.second->members)
        if (member && peer && peer->dead && !member->dead)
          fail_later(member, ncclRemoteError, "remote process exited");
}

/* Moves what has met on the way from one rank to another. */
static void meet(Clique *clique, const Operation &operation) {
  int own = operation.group->member->rank;
  auto way = operation.is_send ? std::make_pair(own, operation.peer) : std::make_pair(operation.peer, own);
  auto &waits = clique->waits[way];
  if (waits.empty() || waits.front().is_send == operation.is_send) {
    waits.push_back(operation);
    return;
  }
  Operation other = waits.front();
  waits.pop_front();
  if (other.bytes != operation.bytes) {
    fail_later(other.group->member.get(), ncclInternalError, "the two sides differ in bytes");
    fail_later(operation.group->member.get(), ncclInternalError, "the two sides differ in bytes");
    return;
  }
  memcpy(operation.is_send ? other.data : operation.data, operation.is_send ? operation.data : other.data, other.bytes);
  other.group->left--;
  operation.group->left--;
}

/* Asks the streams of a member's groups, the first one first. */
static void hurry(Member *member, const Group *until) {
  std::vector<std::shared_ptr<Group>> groups(member->groups.begin(), member->groups.end());
  for (auto &group : groups)
    if (group.get() == until || member->aborted || !emulated_progress(group->stream, group->number))
      return;
}

/* The work of a stream: whether the group is over. */
static bool run(const std::shared_ptr<Group> &group) {
  Member *member = group->member.get();
  if (member->aborted)
    return true;
  if (member->groups.front() != group)
    hurry(member, group.get());
  if (member->groups.front() != group)
    return member->aborted;
  if (!group->begun) {
    group->begun = true;
    for (const Operation &operation : group->operations)
      meet(member->clique.get(), operation);
  }
  for (const Operation &operation : group->operations)
    if (group->left && member->clique->members[operation.peer])
      hurry(member->clique->members[operation.peer], NULL);
  if (group->left)
    return false;
  member->groups.pop_front();
  return true;
}

static void put_on_stream(const std::shared_ptr<Group> &group) {
  Member *member = group->member.get();
  member->groups.push_back(group);
  group->number = ~(uint64_t)0; /* until it has one */
  group->number = emulated_enqueue_waiting(group->stream, [=] { return run(group); });
  n_groups++;
}

/* Whether all is well and over that was asked of the member. */
static ncclResult_t look(Member *member) {
  if (member->error)
    return member->error;
  if (member->clique->joined < (int)member->clique->members.size())
    return ncclInProgress;
  if (!member->groups.empty() && member->groups.front()->begun && emulated_stuck())
    fail_later(member, ncclInternalError, "operations wait for one another for ever");
  if (member->answers > 0 && member->answers--)
    return ncclInProgress;
  if (!member->delayed.empty() && !member->connected) {
    for (auto &group : member->delayed)
      for (const Operation &operation : group->operations) {
        const Member *peer = member->clique->members[operation.peer];
        if (!peer || !peer->called)
          return ncclInProgress;
      }
    member->connected = true;
  }
  for (auto &group : member->delayed)
    put_on_stream(group);
  member->delayed.clear();
  return member->error;
}

/* What a call returns: at once where it is nonblocking, else when it is carried out. */
static ncclResult_t answer(Member *member, EmulatedLock &held) {
  ncclResult_t result = look(member);
  while (member->blocking && result == ncclInProgress) {
    emulated_pause(held);
    result = look(member);
  }
  return result;
}

ncclResult_t ncclGetVersion(int *version) {
  *version = NCCL_VERSION_CODE - 6; /* an older one than the header will do: 2.28.3 */
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  EmulatedLock held = emulated_lock();
  memset(id, 0, sizeof *id);
  *(int *)id->internal = ++next_id;
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config) {
  EmulatedLock held = emulated_lock();
  int device;
  if (!config->initialized || rank < 0 || rank >= ranks || cudaGetDevice(&device) != cudaSuccess)
    return ncclInvalidArgument;
  auto &clique = cliques[std::string(id.internal, sizeof id.internal)];
  if (!clique)
    clique = std::make_shared<Clique>();
  clique->members.resize((size_t)ranks);
  auto member = std::make_shared<Member>();
  member->clique = clique;
  member->rank = rank;
  member->device = device;
  member->blocking = config->blocking;
  for (const Member *other : clique->members)
    if (other && other->device == device)
      return refuse(member.get(), "two ranks on one device");
  clique->members[(size_t)rank] = member.get();
  clique->joined++;
  *comm = new ncclComm{member};
  return answer(member.get(), held);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
  EmulatedLock held = emulated_lock();
  *error = look(comm->member.get());
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  EmulatedLock held = emulated_lock();
  Member *member = comm->member.get();
  if (!member->groups.empty() || !member->delayed.empty())
    return refuse(member, "work is under way");
  member->finalized = true;
  return member->blocking ? ncclSuccess : ncclInProgress;
}

static void leave(ncclComm_t comm) {
  Member *member = comm->member.get();
  member->aborted = true;
  member->clique->members[(size_t)member->rank] = NULL;
  for (auto &entry : member->clique->waits)
    for (size_t i = entry.second.size(); i-- > 0;)
      if (entry.second[i].group->member.get() == member)
        entry.second.erase(entry.second.begin() + (long)i);
  member->groups.clear();
  member->delayed.clear();
  delete comm;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  EmulatedLock held = emulated_lock();
  if (!comm->member->finalized)
    return refuse(comm->member.get(), "it was not finalized");
  leave(comm);
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  EmulatedLock held = emulated_lock();
  leave(comm);
  return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
  static const char *const texts[] = {"no error",
                                      "unhandled cuda error",
                                      "unhandled system error",
                                      "internal error",
                                      "invalid argument",
                                      "invalid usage",
                                      "remote process exited or there was a network error",
                                      "in progress"};
  return texts[result];
}

const char *ncclGetLastError(ncclComm_t comm) {
  return comm ? comm->member->text.c_str() : "";
}

ncclResult_t ncclGroupStart(void) {
  depth++;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
  EmulatedLock held = emulated_lock();
  ncclResult_t result = ncclSuccess;
  if (--depth)
    return ncclSuccess;
  for (auto &group : open_groups) {
    Member *member = group->member.get();
    member->called = true;
    member->answers = emulated_random() % 4 ? 0 : 2;
    member->delayed.push_back(group);
  }
  for (auto &group : open_groups) {
    ncclResult_t one = answer(group->member.get(), held);
    result = result == ncclSuccess || result == ncclInProgress ? (one ? one : result) : result;
  }
  open_groups.clear();
  return result;
}

static ncclResult_t add(bool is_send, void *data, size_t bytes, int peer, ncclComm_t comm, cudaStream_t stream) {
  EmulatedLock held = emulated_lock();
  Member *member = comm->member.get();
  if (member->error)
    return member->error;
  if (look(member) == ncclInProgress)
    return refuse(member, "the call before is in progress");
  if (peer < 0 || peer >= (int)member->clique->members.size() || emulated_device_of(stream) != member->device ||
      emulated_device_of_memory(data, bytes) != member->device)
    return refuse(member, "a rank, stream or memory that is not the communicator's");
  std::shared_ptr<Group> group;
  for (auto &open : open_groups)
    if (open->member.get() == member && open->stream == stream)
      group = open;
  if (!group) {
    group = std::make_shared<Group>();
    group->member = comm->member;
    group->stream = stream;
    open_groups.push_back(group);
  }
  group->operations.push_back(Operation{group.get(), is_send, peer, (char *)data, bytes});
  group->left++;
  return ncclSuccess;
}

/* A call outside of a group is a group. */
static ncclResult_t call(bool is_send, void *data, size_t bytes, int peer, ncclComm_t comm, cudaStream_t stream) {
  ncclGroupStart();
  ncclResult_t result = add(is_send, data, bytes, peer, comm, stream), ended = ncclGroupEnd();
  return result ? result : ended;
}

ncclResult_t ncclSend(const void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  (void)type; /* bytes are all there is */
  return call(true, (void *)data, count, peer, comm, stream);
}

ncclResult_t ncclRecv(void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  (void)type;
  return call(false, data, count, peer, comm, stream);
}
