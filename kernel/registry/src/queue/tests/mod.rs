use super::*;

#[tokio::test]
async fn an_overflow_is_told_once_and_then_items_flow_again() {
    let queue = Queue::new(2);
    (0..5).for_each(|item| queue.push(item));
    assert_eq!(queue.pop().await, Popped::Overflowed);
    queue.push(7);
    assert_eq!(queue.pop().await, Popped::Item(7));
    assert_eq!(queue.try_pop(), None);
    queue.close();
    assert_eq!(queue.pop().await, Popped::Closed);
}
